"""Keys, held to RFC 5869, to RFC 7748 and to a second implementation."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
import secagg_reference as reference
from Crypto.Cipher import AES
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedhealth.core.errors import REFUSALS, Refused
from fedhealth.secagg.protocol import keys
from fedhealth.secagg.protocol.refusals import RULES, refused

ALICE, BOB, CAROL = (X25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2, 3))
COHORT = hashlib.sha256(b"cohort").digest()


def test_the_reference_is_rfc_7748s_and_rfc_5869s():
    # RFC 7748, 5.2, first vector; RFC 5869, A.3.
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert reference.x25519(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    okm = reference.hkdf(b"\x0b" * 22, b"", 42)
    assert okm.hex() == ("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")


def test_a_key_is_hkdf_of_its_secret_and_of_what_it_is_for():
    info = b"fedhealth secure sum 1 " + b"\0\0\0\4pair" + b"\0\0\0\2ij"
    prk = hmac.new(bytes(32), b"secret", hashlib.sha256).digest()
    assert keys.derive(b"secret", b"pair", b"ij") == hmac.new(prk, info + b"\1", hashlib.sha256).digest()


def test_a_signature_says_in_clear_what_it_is_for_and_holds_for_nothing_else():
    identity = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, parts = identity.public_key(), (b"agreed", b"places")
    signature = keys.sign(identity, b"confirm", parts)
    content = hashlib.sha256(
        b"fedhealth secure sum 1 " + b"\0\0\0\7confirm" + b"\0\0\0\6agreed" + b"\0\0\0\6places"
    ).digest()
    public.verify(signature, b"fedhealth confirm v1\n" + content)
    with pytest.raises(InvalidSignature):
        public.verify(signature, content)
    with pytest.raises(Refused) as refused_:
        keys.verify(public.public_bytes_raw(), signature, b"advert", parts, of="a site")
    assert refused_.value.code == "bad_signature"
    # Nor would the signature of a bare digest, as another program might sign it, be one of these.
    with pytest.raises(Refused):
        keys.verify(public.public_bytes_raw(), identity.sign(content), b"confirm", parts, of="a site")


def test_a_vectors_tag_is_gmac_and_both_ends_make_it():
    words = np.arange(7, dtype="<u4")
    tag = keys.vector_tag(ALICE, keys.public_bytes(BOB), COHORT, 3, words)
    assert tag == keys.vector_tag(BOB, keys.public_bytes(ALICE), COHORT, 3, words)
    secret = reference.x25519(bytes([1]) * 32, keys.public_bytes(BOB))
    info = b"fedhealth secure sum 1 " + b"\0\0\0\6vector" + b"\0\0\0\x20" + COHORT + b"\0\0\0\2\0\3"
    tagging = AES.new(reference.hkdf(secret, info), AES.MODE_GCM, nonce=bytes(12))
    tagging.update(words.tobytes())
    assert tag == tagging.digest()
    others = {
        keys.vector_tag(ALICE, keys.public_bytes(BOB), COHORT, 4, words),
        keys.vector_tag(ALICE, keys.public_bytes(BOB), bytes(32), 3, words),
        keys.vector_tag(ALICE, keys.public_bytes(CAROL), COHORT, 3, words),
        keys.vector_tag(ALICE, keys.public_bytes(BOB), COHORT, 3, words[:6]),
    }
    assert len(others | {tag}) == 5


def test_a_vector_tagged_in_pieces_has_the_same_tag(monkeypatch):
    words = np.arange(1000, dtype="<u8")
    whole = keys.vector_tag(ALICE, keys.public_bytes(BOB), COHORT, 3, words)
    monkeypatch.setattr(keys, "PIECE_BYTES", 48)
    assert keys.vector_tag(ALICE, keys.public_bytes(BOB), COHORT, 3, words) == whole


def test_two_sites_agree_on_a_mask_and_a_third_on_none_of_theirs():
    one = keys.pair_mask(ALICE, keys.public_bytes(BOB), COHORT, (4, 9))
    assert one == keys.pair_mask(BOB, keys.public_bytes(ALICE), COHORT, (9, 4))
    others = {
        keys.pair_mask(CAROL, keys.public_bytes(ALICE), COHORT, (4, 9)),
        keys.pair_mask(ALICE, keys.public_bytes(BOB), bytes(32), (4, 9)),
        keys.pair_mask(ALICE, keys.public_bytes(BOB), COHORT, (4, 8)),
    }
    assert len(others) == 3
    assert one not in others


def test_a_sealed_share_opens_for_its_site_its_way_and_its_cohort_alone():
    sealed = keys.seal_share(ALICE, keys.public_bytes(BOB), COHORT, (0, 1), b"share")
    assert keys.open_share(BOB, keys.public_bytes(ALICE), COHORT, (0, 1), sealed) == b"share"
    tampered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for mine, theirs, cohort, way, data in (
        (BOB, ALICE, COHORT, (0, 1), tampered),
        (ALICE, BOB, COHORT, (1, 0), sealed),  # sent back to its sender
        (BOB, ALICE, COHORT, (2, 1), sealed),  # under another site's name
        (BOB, ALICE, bytes(32), (0, 1), sealed),
        (CAROL, ALICE, COHORT, (0, 1), sealed),
    ):
        with pytest.raises(Refused) as caught:
            keys.open_share(mine, keys.public_bytes(theirs), cohort, way, data)
        assert caught.value.code == "share_not_authentic"


@pytest.mark.parametrize("theirs", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_a_public_key_of_small_order_is_refused(theirs):
    with pytest.raises(Refused) as caught:
        keys.pair_mask(ALICE, theirs, COHORT, (0, 1))
    assert caught.value.code == "key_unsound"


def test_a_signature_is_of_one_site_one_label_and_one_content():
    identity = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = identity.public_key().public_bytes_raw()
    signature = keys.sign(identity, b"advert", [b"a", b"b"])
    keys.verify(public, signature, b"advert", [b"a", b"b"], of="site")
    for label, parts in ((b"confirm", [b"a", b"b"]), (b"advert", [b"ab", b""]), (b"advert", [b"a"])):
        with pytest.raises(Refused) as caught:
            keys.verify(public, signature, label, parts, of="site")
        assert caught.value.code == "bad_signature"


def test_every_key_of_a_seed_is_another():
    made = keys.round_keys(bytes(32))
    secrets = [made.share_key.private_bytes_raw(), made.mask_key.private_bytes_raw(), made.own_mask, made.polynomials]
    assert len({*secrets, bytes(32), keys.commitment(made.own_mask)}) == 6


@pytest.mark.parametrize("code", RULES)
def test_every_refusal_has_words_for_the_coordinator_and_one_line_for_the_site(code):
    assert code in REFUSALS
    line = str(refused(code, "something"))
    assert "\n" not in line
    assert ", found something. " in line
