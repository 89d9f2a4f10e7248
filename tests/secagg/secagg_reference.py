"""The protocol written a second time: slowly, in whole numbers, and on other libraries.

X25519 after RFC 7748's pseudo-code, HKDF after RFC 5869 on `hmac`, AES and Ed25519 of PyCryptodome.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from Crypto.Cipher import AES
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

FIELD = 2**255 - 19


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    k = int.from_bytes(scalar, "little")
    k = (k & ~7 & ~(1 << 255)) | (1 << 254)
    u = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a, c * b
        x3, z3 = (da + cb) ** 2 % FIELD, u * (da - cb) ** 2 % FIELD
        aa, bb = a * a, b * b
        e = aa - bb
        x2, z2 = aa * bb % FIELD, e * (aa + 121665 * e) % FIELD
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, -1, FIELD) % FIELD).to_bytes(32, "little")


BASE = (9).to_bytes(32, "little")


def hkdf(secret: bytes, info: bytes, size: int = 32) -> bytes:
    """RFC 5869 with SHA-256 and no salt."""
    key = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    block, out = b"", b""
    for i in range(1, -(-size // 32) + 1):
        block = hmac.new(key, block + info + bytes([i]), hashlib.sha256).digest()
        out += block
    return out[:size]


def stream(key: bytes, size: int) -> bytes:
    """AES-256 over the counters from 0."""
    return AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=0).encrypt(bytes(size))


class Reference:
    """A round of a complete cohort in which some sites are lost, and every byte of it.

    Args:
        terms: study, round, min_cohort, colluders, losses_percent, task, and layout as bytes.
        names: the roster, in order.
        identities: the Ed25519 seeds of the sites.
        seeds: what each site drew for the round.
        words: [sites][d] whole numbers.
        bits: of a word.
        seed: what the coordinator drew.
    """

    PRIME = 2**256 + 297

    def __init__(self, terms: dict, names, identities, seeds, words, bits: int, seed: bytes) -> None:
        self.seed = seed
        self.names, self.seeds, self.words, self.bits = names, seeds, words, bits
        self.n = len(names)
        self.identities = [ECC.construct(curve="Ed25519", seed=seed) for seed in identities]
        publics = [key.public_key().export_key(format="raw") for key in self.identities]
        roster = b"".join(self.sized(name.encode()) + key for name, key in zip(names, publics, strict=True))
        self.terms = hashlib.sha256(
            b"fhs1T"
            + self.sized(terms["study"].encode())
            + struct.pack(">IHHB", terms["round"], terms["min_cohort"], terms["colluders"], terms["losses_percent"])
            + struct.pack(">H", self.n)
            + roster
            + terms["task"]
            + terms["layout"]
        ).digest()
        self.threshold = (self.n + terms["colluders"]) // 2 + 1

    @staticmethod
    def sized(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    def label(self, *parts: bytes) -> bytes:
        return b"fedhealth secure sum 1 " + b"".join(self.sized(part) for part in parts)

    def derived(self, secret: bytes, *parts: bytes) -> bytes:
        return hkdf(secret, self.label(*parts))

    def digest(self, *parts: bytes) -> bytes:
        return hashlib.sha256(self.label(*parts)).digest()

    def signed(self, site: int, *parts: bytes) -> bytes:
        return eddsa.new(self.identities[site], "rfc8032").sign(
            b"fedhealth " + parts[0] + b" v1\n" + self.digest(*parts)
        )

    @staticmethod
    def places(sites) -> bytes:
        return struct.pack(f">{1 + len(sites)}H", len(sites), *sites)

    def polynomial(self, site: int, which: int) -> list[int]:
        """The coefficients, the secret first: of the own mask (0) or of the mask key (1)."""
        size = 48 * (self.threshold - 1)
        noise = stream(self.derived(self.seeds[site], b"polynomials"), 2 * size)[which * size :][:size]
        drawn = [int.from_bytes(noise[at : at + 48], "big") % self.PRIME for at in range(0, size, 48)]
        secret = self.derived(self.seeds[site], (b"own", b"mask")[which])
        return [int.from_bytes(secret, "big"), *reversed(drawn)]

    def share(self, owner: int, holder: int, which: int) -> bytes:
        value = sum(c * (holder + 1) ** power for power, c in enumerate(self.polynomial(owner, which)))
        return (value % self.PRIME).to_bytes(33, "big")

    def run(self, lost_before_mask, lost_before_reveal) -> tuple[list[bytes], list[int]]:
        """All messages of the sites in their order, and the sum."""
        everyone, messages = range(self.n), []
        share_keys = [self.derived(seed, b"share") for seed in self.seeds]
        mask_keys = [self.derived(seed, b"mask") for seed in self.seeds]
        share_publics = [x25519(key, BASE) for key in share_keys]
        mask_publics = [x25519(key, BASE) for key in mask_keys]
        adverts = []
        for site in everyone:
            commitment = self.digest(b"commitment", self.derived(self.seeds[site], b"own"))
            body = struct.pack(">H", site) + share_publics[site] + mask_publics[site] + commitment
            adverts.append(body + self.signed(site, b"advert", self.terms, body))
            messages.append(b"fhs1A" + adverts[-1])
        coordinator = self.derived(self.seed, b"coordinator")
        cohort = self.digest(b"cohort", self.terms, x25519(coordinator, BASE), *adverts)
        for site in everyone:
            sealed = b""
            for to in everyone:
                if to != site:
                    way = [struct.pack(">H", place) for place in (site, to)]
                    key = self.derived(x25519(share_keys[site], share_publics[to]), b"seal", cohort, *way)
                    aes = AES.new(key, AES.MODE_GCM, nonce=bytes(12))
                    aes.update(cohort)
                    text, tag = aes.encrypt_and_digest(self.share(site, to, 0) + self.share(site, to, 1))
                    sealed += way[1] + text + tag
            messages.append(b"fhs1C" + struct.pack(">H", site) + cohort + struct.pack(">H", self.n - 1) + sealed)
        agreed = self.digest(b"agreed", cohort, self.places(everyone))
        survivors = [site for site in everyone if site not in lost_before_mask]
        for site in survivors:
            masked = self.masked(site, mask_keys, mask_publics, agreed)
            content = b"".join(word.to_bytes(self.bits // 8, "little") for word in masked)
            place = struct.pack(">H", site)
            key = self.derived(x25519(coordinator, share_publics[site]), b"vector", agreed, place)
            tagging = AES.new(key, AES.MODE_GCM, nonce=bytes(12))
            tagging.update(content)
            size = struct.pack(">BQ", self.bits // 8, len(masked))
            messages.append(b"fhs1E" + place + agreed + tagging.digest() + size + content)
        for site in survivors:
            signature = self.signed(site, b"confirm", agreed, self.places(survivors))
            messages.append(b"fhs1G" + struct.pack(">H", site) + signature)
        for site in survivors:
            if site not in lost_before_reveal:
                message = b"fhs1I" + struct.pack(">H", site)
                for which, owners in ((0, survivors), (1, sorted(lost_before_mask))):
                    shares = [struct.pack(">H", owner) + self.share(owner, site, which) for owner in owners]
                    message += struct.pack(">H", len(owners)) + b"".join(shares)
                messages.append(message + bytes(1))  # no keys of noise
        columns = zip(*(self.words[site] for site in survivors), strict=True)
        return messages, [sum(column) % 2**self.bits for column in columns]

    def masked(self, site: int, mask_keys, mask_publics, agreed: bytes) -> list[int]:
        keys = [(1, self.derived(self.derived(self.seeds[site], b"own"), b"self", agreed))]
        for other in range(self.n):
            if other != site:
                pair = [struct.pack(">H", place) for place in sorted((site, other))]
                secret = x25519(mask_keys[site], mask_publics[other])
                keys.append((1 if site < other else -1, self.derived(secret, b"pair", agreed, *pair)))
        total, width = list(self.words[site]), self.bits // 8
        for sign, key in keys:
            noise = stream(key, width * len(total))
            for i in range(len(total)):
                total[i] += sign * int.from_bytes(noise[width * i : width * (i + 1)], "little")
        return [word % 2**self.bits for word in total]
