"""The keys of one round: all from one secret seed, each for one purpose.

X25519 (RFC 7748) agrees on a secret between two sites, or a site and the coordinator,
HKDF-SHA256 (RFC 5869) makes keys of it, AES-256-GCM seals shares and tags vectors, Ed25519
(RFC 8032) signs. Every key and signature is bound to a label and to what it is for, so none
of one round, cohort, pair or direction is of use in another.

Whoever the coordinator must believe later, signs: who takes part, and who survived. A vector
is tagged under a key of its site and the coordinator instead, which is as good against
anyone on its way and some five times as fast as to sign its SHA-256. A signature would say
more to a third party only, of a vector that nobody keeps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhealth.secagg.protocol.refusals import refused
from fedhealth.secagg.protocol.wire import number, sized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from numpy.typing import NDArray

LABEL = b"fedhealth secure sum 1 "
SEED_BYTES = 32
SIGNATURE_BYTES = 64
TAG_BYTES = 16
#: A sealing or tagging key is for one message, so its nonce may be fixed.
NONCE = bytes(12)
#: A public key is a number below this (RFC 7748, section 5); larger ones are other ways to write the same key.
FIELD = 2**255 - 19
#: The points of order 1, 2, 4 and 8 of the curve and its twist (https://cr.yp.to/ecdh.html#validate): with one of
#: these, every private key gives zero.
SMALL_ORDER = {
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
}
#: OpenSSL counts the bytes of one call in 32 bits.
PIECE_BYTES = 2**30


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


def check_sound(key: bytes) -> None:
    """Refuse a public key that gives no secret, or that X25519 takes for another one, so that it passes for fresh.

    Raises:
        Refused: `key_unsound`.
    """
    point = int.from_bytes(key, "little")
    if point >= FIELD:
        raise refused("key_unsound", "a second way to write one")
    if point in SMALL_ORDER:
        raise refused("key_unsound", "one of small order")


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


def vector_tag(
    mine: X25519PrivateKey, theirs: bytes, agreed: bytes, site: int, words: NDArray[np.unsignedinteger]
) -> bytes:
    """The tag of a site's masked vector: only that site and the coordinator can make it.

    It is that of AES-256-GCM over no text, with the words beside it (GMAC, NIST SP 800-38D).

    Args:
        mine: the site's private share key or the coordinator's private key.
        theirs: the other's public one.
        agreed: the digest of the sites that shared, which the coordinator's key is part of.
        site: its place.
        words: contiguous.

    Raises:
        Refused: `key_unsound`.
    """
    key = derive(_exchange(mine, theirs), b"vector", agreed, number(site, 2))
    tagging = Cipher(AES(key), GCM(NONCE)).encryptor()
    data = words.view(np.uint8).data
    for start in range(0, len(data), PIECE_BYTES):
        tagging.authenticate_additional_data(data[start : start + PIECE_BYTES])
    tagging.finalize()
    return tagging.tag


def check_tag(expected: bytes, found: bytes, *, of: str) -> None:
    """Refuse the vector of the site named `of` where its tag is not the one expected.

    Raises:
        Refused: `vector_not_authentic`.
    """
    if not bytes_eq(expected, found):
        raise refused("vector_not_authentic", f"another under the name of {of}")


def sign(identity: Ed25519PrivateKey, label: bytes, parts: Sequence[bytes]) -> bytes:
    """The site's signature over the label and the parts."""
    return identity.sign(_statement(label, parts))


def verify(key: bytes, signature: bytes, label: bytes, parts: Sequence[bytes], *, of: str) -> None:
    """Check the signature of the site named `of`.

    Raises:
        Refused: `bad_signature`.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _statement(label, parts))
    except (InvalidSignature, ValueError):
        raise refused("bad_signature", f"another under the name of {of}") from None


def _statement(label: bytes, parts: Sequence[bytes]) -> bytes:
    """What is signed: its purpose in clear, so that it is nothing else that this key may sign, and its digest."""
    return b"fedhealth " + label + b" v1\n" + digest(label, *parts)


def _sealing(mine: X25519PrivateKey, theirs: bytes, cohort: bytes, way: tuple[int, int]) -> AESGCM:
    return AESGCM(derive(_exchange(mine, theirs), b"seal", cohort, *(number(site, 2) for site in way)))


def _exchange(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise refused("key_unsound", "one of small order") from None
