"""Governance: who may do what with which patients, and the record of it."""
