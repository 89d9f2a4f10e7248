"""Signing keys: whether 32 bytes are an Ed25519 public key that only its owner can sign for."""

from __future__ import annotations

from functools import lru_cache

#: The field of the curve and its constant d (RFC 8032, section 5.1).
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
#: The y of the eight points whose order divides 8. Under such a key one signature fits many texts.
SMALL_ORDER = {
    0,
    1,
    P - 1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
}


@lru_cache(maxsize=4096)
def fault_of_key(key: bytes) -> str | None:
    """What makes it no key for a roster, in words that hold nothing of it; None where it is one.

    Such a key is none: a point of small order, a second way to write a point (programs differ
    on whether to take it, so two sites might), and what is no point at all.
    """
    if len(key) != 32:
        return "another length than 32 bytes"
    y = int.from_bytes(key, "little") % 2**255  # without the bit that holds the sign of x
    if y >= P:
        return "a second way to write a key"
    if y in SMALL_ORDER:
        return "a key of small order"
    # x^2 of the point at y; a square, by Euler's criterion, where there is one. It is never 0 here: then y is 1 or -1.
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    return None if pow(square, (P - 1) // 2, P) == 1 else "no point of the curve"
