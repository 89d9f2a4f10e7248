"""A site's values as words of the ring, and a sum of words as values again.

Real values are fixed point with stochastic rounding: q = floor(value * scale + u), with u
uniform in [0, 1) from secret bits, so E[q] = value * scale and errors of sites cancel.
The mean over N patients of n sites is off by less than n / (scale * N). What does not
fit is refused and never clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.core.errors import IntegrityError, Refused
from fedhealth.secagg.protocol.layout import ROUNDING_SLACK, Counts, Layout, Reals, limit
from fedhealth.secagg.protocol.streams import cipher_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers import CipherContext

#: A vector of the ring: [dimension].
Words = NDArray[np.unsignedinteger]

#: Values, fractions and words of so many stay in the cache while they are worked on.
BLOCK = 16_384


def encode(layout: Layout, weight: int, values: Mapping[str, NDArray[np.generic]], rounding_key: bytes) -> Words:
    """The words of one site: [layout.dimension], unmasked.

    Args:
        layout: what the words mean.
        weight: the patients behind the values, from 1 to `weight_max`.
        values: by slot name, [size]: whole numbers for `Counts`, float32 or float64 for `Reals`.
        rounding_key: 32 secret random bytes, for this call alone.

    Raises:
        Refused: `weight_out_of_range`, `wrong_shape`, `not_finite` or `value_out_of_range`.
    """
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= layout.weight_max:
        raise Refused(
            "weight_out_of_range",
            rule=f"a site's weight must be a whole number of patients from 1 to {layout.weight_max}",
            found="another one",
            remedy="Agree on a larger weight_max, or leave the site out.",
        )
    if set(values) != {slot.name for slot in layout.slots}:
        raise wrong_shape("values must have the names of the layout's slots", "other names")
    words = np.empty(layout.dimension, dtype=word_type(layout))
    words[0] = weight
    bits = cipher_of(rounding_key)
    at = 1
    for slot in layout.slots:
        given, out = values[slot.name], words[at : at + slot.size]
        if given.shape != (slot.size,):
            raise wrong_shape(f"{slot.name} must have the shape ({slot.size},)", str(given.shape))
        if isinstance(slot, Counts):
            _put_counts(slot, given, out)
        else:
            factor = layout.scale(slot) * (weight if slot.weighted else 1)
            _put_reals(slot, given, factor, bits, out)
        at += slot.size
    return words


@dataclass(frozen=True, slots=True)
class Total:
    """What the coordinator learns: sums over sites.

    Attributes:
        weight: the patients of all sites.
        sites: how many sites.
        sums: by slot name, [size]: int64 for `Counts`, float64 for `Reals`.
    """

    weight: int
    sites: int
    sums: Mapping[str, NDArray[np.generic]]


def decode(layout: Layout, words: Words, sites: int) -> Total:
    """The sums in a vector that `sites` sites added up to.

    Raises:
        IntegrityError: a weight, or a sum, that so many sites and patients can't add up to.
    """
    signed = words.view(f"<i{layout.bits // 8}")
    noise = sites * layout.noise_margin
    weight = int(signed[0])
    if not sites - noise <= weight <= sites * layout.weight_max + noise:
        raise _impossible("the weight")
    sums: dict[str, NDArray[np.generic]] = {}
    at = 1
    for slot in layout.slots:
        piece = signed[at : at + slot.size]
        if isinstance(slot, Counts):
            if int(piece.min()) < -noise or int(piece.max()) > sites * slot.most + noise:
                raise _impossible(slot.name)
            sums[slot.name] = piece.astype(np.int64)
        else:
            most = _most(layout, slot, weight, sites)
            if int(piece.min()) < -most or int(piece.max()) > most:
                raise _impossible(slot.name)
            sums[slot.name] = np.divide(piece, layout.scale(slot), dtype=np.float64)
        at += slot.size
    return Total(weight, sites, sums)


def word_type(layout: Layout) -> np.dtype[np.unsignedinteger]:
    """The numpy type of a word."""
    return np.dtype(f"<u{layout.bits // 8}")


def wrong_shape(rule: str, found: str) -> Refused:
    """The refusal of values that are not what the layout says."""
    return Refused("wrong_shape", rule=rule, found=found, remedy="Give what the study's layout declares.")


def _most(layout: Layout, slot: Reals, weight: int, sites: int) -> int:
    """The largest magnitude of a summed word of `slot`, from sites that keep to its bound."""
    noise = sites * layout.noise_margin
    exact = (weight + noise) * layout.levels // layout.weight_max if slot.weighted else sites * layout.levels
    return exact + sites * ROUNDING_SLACK + noise


def _put_counts(slot: Counts, given: NDArray[np.generic], out: Words) -> None:
    if given.dtype.kind not in "iu":
        raise wrong_shape(f"{slot.name} must be whole numbers", str(given.dtype))
    if int(given.min()) < 0 or int(given.max()) > slot.most:
        raise _out_of_range(f"{slot.name} must be from 0 to {slot.most}")
    out[:] = given


def _put_reals(slot: Reals, given: NDArray[np.generic], factor: float, bits: CipherContext, out: Words) -> None:
    if given.dtype not in (np.float32, np.float64):
        raise wrong_shape(f"{slot.name} must be float32 or float64", str(given.dtype))
    bound = limit(slot)
    most = min(BLOCK, slot.size)
    zeros, stream = memoryview(bytes(4 * most)), bytearray(4 * most + 16)
    fractions = np.frombuffer(stream, dtype="<u4")
    scaled, drawn = np.empty(most), np.empty(most)
    whole = out.view(f"<i{out.itemsize}")
    for start in range(0, slot.size, most):
        piece = given[start : start + most]
        n = len(piece)
        # As Python floats: numpy would round the bound to float32 before it compares. NaN fails both.
        low, high = float(piece.min()), float(piece.max())
        if not (low >= -bound and high <= bound):
            _refuse_reals(slot, finite=bool(np.isfinite(piece).all()))
        np.multiply(piece, factor, out=scaled[:n], dtype=np.float64)
        bits.update_into(zeros[: 4 * n], stream)
        np.multiply(fractions[:n], 2.0**-32, out=drawn[:n])
        np.add(scaled[:n], drawn[:n], out=scaled[:n])
        np.floor(scaled[:n], out=scaled[:n])
        np.copyto(whole[start : start + n], scaled[:n], casting="unsafe")


def _refuse_reals(slot: Reals, *, finite: bool) -> None:
    if finite:
        raise _out_of_range(f"{slot.name} must be at most {slot.bound} in magnitude")
    raise Refused(
        "not_finite",
        rule=f"{slot.name} must be finite numbers",
        found="NaN or an infinity",
        remedy="Train with a smaller step.",
    )


def _out_of_range(rule: str) -> Refused:
    return Refused(
        "value_out_of_range",
        rule=rule,
        found="a value outside",
        remedy="Clip before summing, or agree on a larger bound.",
    )


def _impossible(name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} must be a sum that the sites can reach, found one outside. "
        f"A site sent words outside the layout; ask each for its log."
    )
