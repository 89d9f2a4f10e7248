"""The messages of a round, in its order, and their bytes.

    site to coordinator      coordinator to site
    Advert                   Cohort       all adverts
    Shares                   Inbox        the shares sealed for this site
    Masked                   Survivors    whose vectors arrived
    Confirm                  Quorum       enough confirmations
    Reveal

A site is named by its place in the roster's sorted names. `pack` has one outcome for equal
messages and `unpack` refuses everything else as `malformed`; neither says whether a message
is right, which the two sessions do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedhealth.secagg.protocol.keys import SIGNATURE_BYTES, TAG_BYTES
from fedhealth.secagg.protocol.shamir import SHARE_BYTES
from fedhealth.secagg.protocol.terms import DIGEST_BYTES, KEY_BYTES
from fedhealth.secagg.protocol.wire import MAGIC, Reader, ascending, malformed, number, places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedhealth.secagg.protocol.codec import Words

#: Two shares and the 16-byte tag of AES-GCM.
SEALED_BYTES = 2 * SHARE_BYTES + 16


@dataclass(frozen=True, slots=True)
class Advert:
    """A site takes part, with keys for this round and a commitment to its own mask."""

    site: int
    share_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"A" + self.body() + self.signature

    @property
    def keys(self) -> tuple[bytes, bytes, bytes]:
        """What no other advert may hold."""
        return self.share_key, self.mask_key, self.commitment

    def body(self) -> bytes:
        """What is signed, together with the terms."""
        return number(self.site, 2) + self.share_key + self.mask_key + self.commitment

    @classmethod
    def unpack(cls, data: bytes) -> Advert:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"A")
        advert = cls.read(reader)
        reader.end()
        return advert

    @classmethod
    def read(cls, reader: Reader) -> Advert:
        """The advert that comes next."""
        site, share_key, mask_key = reader.number(2), reader.take(KEY_BYTES), reader.take(KEY_BYTES)
        return cls(site, share_key, mask_key, reader.take(DIGEST_BYTES), reader.take(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Cohort:
    """All adverts, by place, and the coordinator's public key for this round.

    Attributes:
        key: X25519, with which a site's share key makes the key of the tag on its vector.
        adverts: by place.
    """

    key: bytes
    adverts: tuple[Advert, ...]

    def pack(self) -> bytes:
        """The message as bytes."""
        head = MAGIC + b"B" + self.key + number(len(self.adverts), 2)
        return head + b"".join(advert.body() + advert.signature for advert in self.adverts)

    @classmethod
    def unpack(cls, data: bytes) -> Cohort:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"B")
        key = reader.take(KEY_BYTES)
        adverts = tuple(Advert.read(reader) for _ in range(reader.number(2)))
        reader.end()
        ascending(tuple(advert.site for advert in adverts))
        return cls(key, adverts)


@dataclass(frozen=True, slots=True)
class Shares:
    """A site's shares, each sealed for the site at its place.

    Attributes:
        site: its own place.
        cohort: the digest of the cohort that it was told: who was told another is left out here,
            where it costs nobody else the round.
        sealed: by place.
    """

    site: int
    cohort: bytes
    sealed: Mapping[int, bytes]

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"C" + number(self.site, 2) + self.cohort + _packed(self.sealed)

    @classmethod
    def unpack(cls, data: bytes) -> Shares:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"C")
        shares = cls(reader.number(2), reader.take(DIGEST_BYTES), _read(reader, SEALED_BYTES))
        reader.end()
        return shares


@dataclass(frozen=True, slots=True)
class Inbox:
    """Which sites shared, and what those sealed for one site that work with it."""

    sites: tuple[int, ...]
    sealed: Mapping[int, bytes]

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"D" + places(self.sites) + _packed(self.sealed)

    @classmethod
    def unpack(cls, data: bytes) -> Inbox:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"D")
        inbox = cls(reader.places(), _read(reader, SEALED_BYTES))
        reader.end()
        return inbox


@dataclass(frozen=True, slots=True)
class Masked:
    """A site's vector under its masks.

    Attributes:
        site: its place.
        agreed: the digest of the sites that shared, under which it is masked.
        words: [dimension].
        tag: `keys.vector_tag` of the words.
    """

    site: int
    agreed: bytes
    words: Words
    tag: bytes

    def pack(self) -> bytes:
        """The message as bytes: a head of 64, so that words lie on whole words of memory, and a copy of the words."""
        size = number(self.words.itemsize, 1) + number(len(self.words), 8)
        head = MAGIC + b"E" + number(self.site, 2) + self.agreed + self.tag + size
        return b"".join((head, self.words.view(np.uint8).data))

    @classmethod
    def unpack(cls, data: bytes) -> Masked:
        """The message in these bytes; its words are a view of them."""
        reader = Reader(data, MAGIC + b"E")
        site, agreed, tag = reader.number(2), reader.take(DIGEST_BYTES), reader.take(TAG_BYTES)
        width, dimension = reader.number(1), reader.number(8)
        if width not in (4, 8):
            raise malformed("words of another size")
        words = np.frombuffer(reader.view(width * dimension), dtype=f"<u{width}")
        reader.end()
        return cls(site, agreed, words, tag)


@dataclass(frozen=True, slots=True)
class Survivors:
    """The sites whose vectors are in the sum."""

    sites: tuple[int, ...]

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"F" + places(self.sites)

    @classmethod
    def unpack(cls, data: bytes) -> Survivors:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"F")
        survivors = cls(reader.places())
        reader.end()
        return survivors


@dataclass(frozen=True, slots=True)
class Confirm:
    """A site's signature over the survivors it was told."""

    site: int
    signature: bytes

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"G" + number(self.site, 2) + self.signature

    @classmethod
    def unpack(cls, data: bytes) -> Confirm:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"G")
        confirm = cls(reader.number(2), reader.take(SIGNATURE_BYTES))
        reader.end()
        return confirm


@dataclass(frozen=True, slots=True)
class Quorum:
    """Enough confirmations, by place."""

    confirms: tuple[Confirm, ...]

    def pack(self) -> bytes:
        """The message as bytes."""
        return MAGIC + b"H" + _packed({confirm.site: confirm.signature for confirm in self.confirms})

    @classmethod
    def unpack(cls, data: bytes) -> Quorum:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"H")
        signatures = _read(reader, SIGNATURE_BYTES)
        reader.end()
        return cls(tuple(Confirm(site, signature) for site, signature in signatures.items()))


@dataclass(frozen=True, slots=True)
class Reveal:
    """What opens the sum.

    Attributes:
        site: its own place.
        own_masks: by owner, the shares it holds of survivors' own masks.
        mask_keys: by owner, the shares it holds of lost sites' mask keys; never both of one site.
        spare: the keys of that noise in its words which so many survivors don't need, in the order of the parts.
    """

    site: int
    own_masks: Mapping[int, bytes] = field(repr=False)
    mask_keys: Mapping[int, bytes] = field(repr=False)
    spare: tuple[bytes, ...] = field(default=(), repr=False)

    def pack(self) -> bytes:
        """The message as bytes."""
        shares = _packed(self.own_masks) + _packed(self.mask_keys)
        return MAGIC + b"I" + number(self.site, 2) + shares + number(len(self.spare), 1) + b"".join(self.spare)

    @classmethod
    def unpack(cls, data: bytes) -> Reveal:
        """The message in these bytes."""
        reader = Reader(data, MAGIC + b"I")
        site, own_masks, mask_keys = reader.number(2), _read(reader, SHARE_BYTES), _read(reader, SHARE_BYTES)
        spare = tuple(reader.take(KEY_BYTES) for _ in range(reader.number(1)))
        reader.end()
        return cls(site, own_masks, mask_keys, spare)


FromSite = Advert | Shares | Masked | Confirm | Reveal
ToSite = Cohort | Inbox | Survivors | Quorum

KINDS: dict[bytes, type[FromSite | ToSite]] = {
    b"A": Advert,
    b"B": Cohort,
    b"C": Shares,
    b"D": Inbox,
    b"E": Masked,
    b"F": Survivors,
    b"G": Confirm,
    b"H": Quorum,
    b"I": Reveal,
}


def unpack(data: bytes) -> FromSite | ToSite:
    """The message in these bytes, of whatever kind they say.

    Raises:
        Refused: `malformed`.
    """
    kind = KINDS.get(Reader(data, MAGIC).take(1))
    if kind is None:
        raise malformed("another kind of message")
    return kind.unpack(data)


def _packed(by_site: Mapping[int, bytes]) -> bytes:
    """Bytes of one length by place, ascending."""
    return number(len(by_site), 2) + b"".join(number(site, 2) + by_site[site] for site in sorted(by_site))


def _read(reader: Reader, size: int) -> dict[int, bytes]:
    step = 2 + size
    data = reader.take(step * reader.number(2))  # at once: a coordinator reads thousands of them
    starts = range(0, len(data), step)
    sites = tuple(int.from_bytes(data[at : at + 2], "big") for at in starts)
    ascending(sites)
    return {site: data[at + 2 : at + step] for site, at in zip(sites, starts, strict=True)}
