"""What each word of the summed vector means, and how large a value may be so that no sum wraps.

Word 0 is the weight, the number of patients; the slots follow in their order. One vector
holds everything the coordinator may learn of a round, so nothing has to travel beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedhealth.core.errors import SettingError
from fedhealth.secagg.protocol.wire import Reader, malformed, number, real, sized

#: Above 2^50 levels a float64 no longer holds the next whole number with room for its rounding
#: errors: a value could pass its bound, and the sum change its sign.
MOST_LEVELS = 2**50
#: What scaling and adding the random fraction may round up to, in levels.
ROUNDING_SLACK = 2


@dataclass(frozen=True, slots=True)
class Counts:
    """Whole numbers, summed exactly.

    Attributes:
        name: what they count.
        size: how many words.
        most: the largest that one site may put in any of them; the least is 0.
    """

    name: str
    size: int
    most: int


@dataclass(frozen=True, slots=True)
class Reals:
    """Real numbers, rounded at random so that the sum is right on average.

    Attributes:
        name: what they are.
        size: how many words.
        bound: the largest magnitude that one site may give. It is taken as float32 where
            that is larger, so that values clipped in float32 pass.
        weighted: sum weight times value, for a mean over patients; else the value itself.
    """

    name: str
    size: int
    bound: float
    weighted: bool = True


Slot = Counts | Reals


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole vector.

    Attributes:
        slots: after word 0, in this order.
        weight_max: the most patients one site may stand for.
        cohort_max: the most sites in one sum.
        bits: 32 or 64, the size of a word.
        noise_margin: the largest magnitude of integer noise one site adds to a word.

    No sum wraps: a site's word is at most `reach` + `noise_margin` in magnitude, and
    `cohort_max` times that is below 2^(bits - 1).
    """

    slots: tuple[Slot, ...]
    weight_max: int
    cohort_max: int
    bits: int = 32
    noise_margin: int = 0

    def __post_init__(self) -> None:
        _must(self.bits in (32, 64), f"bits must be 32 or 64, found {self.bits}. Words are of these sizes.")
        for name, least in (("weight_max", 1), ("cohort_max", 1), ("noise_margin", 0)):
            value = getattr(self, name)
            _must(least <= value < 2**63, f"{name} must be at least {least} and below 2^63, found {value}. Correct it.")
        _must(
            self.reach > ROUNDING_SLACK,
            f"{self.bits}-bit words must hold a sum of {self.cohort_max} sites, found no room. Use 64 bits.",
        )
        names = [slot.name for slot in self.slots]
        _must(len(names) == len(set(names)), "slots must have names of their own, found one twice. Rename it.")
        for slot in (Counts("weight_max", 1, self.weight_max), *self.slots):
            _must(slot.size >= 1, f"{slot.name}: a slot must have at least 1 word, found {slot.size}. Leave it out.")
            if isinstance(slot, Counts):
                _must(
                    0 < slot.most <= self.reach,
                    f"{slot.name} must be from 1 to {self.reach} so that the sum of {self.cohort_max} sites fits "
                    f"{self.bits} bits, found {slot.most}. Lower it, or use 64 bits.",
                )
            else:
                _must(
                    1e-30 < slot.bound < 1e30,
                    f"{slot.name}: a bound must be above 1e-30 and below 1e30, found {slot.bound}. Change the unit.",
                )
        _must(self.dimension < 2**32, f"a vector must have fewer than 2^32 words, found {self.dimension}. Split it.")

    @property
    def dimension(self) -> int:
        """How many words, word 0 among them."""
        return 1 + sum(slot.size for slot in self.slots)

    @property
    def reach(self) -> int:
        """The largest magnitude of a word before noise."""
        return int((2 ** (self.bits - 1) - 1) // self.cohort_max - self.noise_margin)

    @property
    def levels(self) -> int:
        """The whole number that a real value at its bound, of the largest weight, becomes."""
        return min(self.reach - ROUNDING_SLACK, MOST_LEVELS)

    def scale(self, slot: Reals) -> float:
        """Levels a unit of a slot's word."""
        return self.levels / (limit(slot) * (self.weight_max if slot.weighted else 1))

    def pack(self) -> bytes:
        """The layout as bytes, the same for equal layouts only."""
        head = number(self.bits, 1) + b"".join(
            number(value, 8) for value in (self.weight_max, self.cohort_max, self.noise_margin)
        )
        return head + number(len(self.slots), 2) + b"".join(_packed(slot) for slot in self.slots)


def layout_from(reader: Reader) -> Layout:
    """The layout that comes next in a message.

    Raises:
        Refused: `malformed`, also where a rule of `Layout` is broken.
    """
    bits = reader.number(1)
    weight_max, cohort_max, noise_margin = (reader.number(8) for _ in range(3))
    slots = tuple(_slot_from(reader) for _ in range(reader.number(2)))
    try:
        return Layout(slots, weight_max, cohort_max, bits, noise_margin)
    except SettingError:
        raise malformed("a layout that breaks a rule") from None


def limit(slot: Reals) -> float:
    """The slot's bound, or the float32 beside it where that is larger."""
    return max(slot.bound, float(np.float32(slot.bound)))


def _packed(slot: Slot) -> bytes:
    head = sized(slot.name.encode()) + number(slot.size, 4)
    if isinstance(slot, Counts):
        return b"c" + head + number(slot.most, 8)
    return (b"w" if slot.weighted else b"r") + head + real(slot.bound)


def _slot_from(reader: Reader) -> Slot:
    kind, name, size = reader.take(1), reader.text(), reader.number(4)
    if kind == b"c":
        return Counts(name, size, reader.number(8))
    if kind not in (b"w", b"r"):
        raise malformed("another kind of slot")
    bound = reader.real()
    if not math.isfinite(bound):
        raise malformed("a bound that is not finite")
    return Reals(name, size, bound, weighted=kind == b"w")


def _must(holds: bool, message: str) -> None:
    if not holds:
        raise SettingError(message)
