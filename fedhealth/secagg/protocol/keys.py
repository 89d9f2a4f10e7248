"""The keys of one round: all from one secret seed, each for one purpose.

X25519 (RFC 7748) agrees on a secret between two sites, HKDF-SHA256 (RFC 5869) makes keys
of it, AES-256-GCM seals shares, Ed25519 (RFC 8032) signs. Every key and signature is bound
to a label and to what it is for, so none of one round, cohort, pair or direction is of use
in another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.wire import number, sized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LABEL = b"fedhealth secure sum 1 "
SEED_BYTES = 32
SIGNATURE_BYTES = 64
#: A sealing key is for one message, so its nonce may be fixed.
NONCE = bytes(12)
#: A public key is a number below this (RFC 7748, section 5); larger ones are other ways to write the same key.
FIELD = 2**255 - 19


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """What a site makes for a round.

    Attributes:
        share_key: X25519, opens the shares sent to this site.
        mask_key: X25519, from which pair masks come; shared among the others.
        own_mask: 32 bytes, from which the mask of this site alone comes; shared as well.
        polynomials: 32 bytes, from which the coefficients of both sharings come.
    """

    share_key: X25519PrivateKey
    mask_key: X25519PrivateKey
    own_mask: bytes
    polynomials: bytes


def round_keys(seed: bytes) -> RoundKeys:
    """The keys of a seed of 32 random bytes that no other round uses."""
    share, mask, own, polynomials = (derive(seed, purpose) for purpose in (b"share", b"mask", b"own", b"polynomials"))
    return RoundKeys(
        X25519PrivateKey.from_private_bytes(share), X25519PrivateKey.from_private_bytes(mask), own, polynomials
    )


def derive(secret: bytes, label: bytes, *parts: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 from `secret`, for the purpose that label and parts name."""
    info = LABEL + b"".join(sized(part) for part in (label, *parts))
    return HKDF(SHA256(), 32, None, info).derive(secret)


def digest(label: bytes, *parts: bytes) -> bytes:
    """SHA-256 over the label and the parts with their lengths."""
    return hashlib.sha256(LABEL + b"".join(sized(part) for part in (label, *parts))).digest()


def commitment(own_mask: bytes) -> bytes:
    """What a site says of its own mask before the round."""
    return digest(b"commitment", own_mask)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def check_form(key: bytes) -> None:
    """Refuse a public key that X25519 would take for another one: it would pass for fresh.

    Raises:
        Refused: `key_unsound`.
    """
    if int.from_bytes(key, "little") >= FIELD:
        raise refused("key_unsound", "a second way to write one")


def check_order(key: bytes) -> None:
    """Refuse a public key of small order, as every site that meets it will.

    Raises:
        Refused: `key_unsound`.
    """
    _exchange(X25519PrivateKey.from_private_bytes(bytes(32)), key)  # every private key gives zero with it


def pair_mask(mine: X25519PrivateKey, theirs: bytes, agreed: bytes, pair: tuple[int, int]) -> bytes:
    """The key of the mask that two sites share: one of them adds it, the other takes it off.

    Args:
        mine: either site's private mask key.
        theirs: the other's public one.
        agreed: the digest of the sites that shared.
        pair: both places, in any order.

    Raises:
        Refused: `key_unsound`.
    """
    return derive(_exchange(mine, theirs), b"pair", agreed, *(number(site, 2) for site in sorted(pair)))


def own_mask_key(own_mask: bytes, agreed: bytes) -> bytes:
    """The key of a site's own mask."""
    return derive(own_mask, b"self", agreed)


def seal_share(mine: X25519PrivateKey, theirs: bytes, cohort: bytes, way: tuple[int, int], share: bytes) -> bytes:
    """A share as only the site at the end of `way` (from, to) can open it."""
    return _sealing(mine, theirs, cohort, way).encrypt(NONCE, share, cohort)


def open_share(mine: X25519PrivateKey, theirs: bytes, cohort: bytes, way: tuple[int, int], sealed: bytes) -> bytes:
    """The share that came along `way` (from, to).

    Raises:
        Refused: `share_not_authentic` or `key_unsound`.
    """
    try:
        return _sealing(mine, theirs, cohort, way).decrypt(NONCE, sealed, cohort)
    except InvalidTag:
        raise refused("share_not_authentic", f"another under the name of site {way[0]}") from None


def sign(identity: Ed25519PrivateKey, label: bytes, parts: Sequence[bytes]) -> bytes:
    """The site's signature over the label and the parts."""
    return identity.sign(digest(label, *parts))


def verify(key: bytes, signature: bytes, label: bytes, parts: Sequence[bytes], *, of: str) -> None:
    """Check the signature of the site named `of`.

    Raises:
        Refused: `bad_signature`.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, digest(label, *parts))
    except (InvalidSignature, ValueError):
        raise refused("bad_signature", f"another under the name of {of}") from None


def _sealing(mine: X25519PrivateKey, theirs: bytes, cohort: bytes, way: tuple[int, int]) -> AESGCM:
    return AESGCM(derive(_exchange(mine, theirs), b"seal", cohort, *(number(site, 2) for site in way)))


def _exchange(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise refused("key_unsound", "one of small order") from None
