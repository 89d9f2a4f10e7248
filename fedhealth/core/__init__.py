"""The nouns: what crosses a room's border, and the errors every room may raise.

Everything here is plain data. Nothing in `core` imports torch, flwr or hydra, so that a
law about the nouns can be read, and tested, without a framework.
"""
