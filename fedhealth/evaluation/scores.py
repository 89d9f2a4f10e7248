"""Score sums: what a hospital tells of its predictions, and how they lie in one vector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.span import Span
from fedhealth.evaluation.grain import rounded
from fedhealth.evaluation.survival import SurvivalSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedhealth.core.study import Study

#: Equal-width cells on the probability scale, for the whole cohort and for each group.
BINS = 1000
GROUP_BINS = 200

#: Probabilities are held inside [2**-23, 1 - 2**-23] before a logarithm is taken. That is
#: the resolution of a float32 probability near 1, which is what a network gives, and the
#: clip of scikit-learn's `log_loss` for float32. A logit so lies within ±15.94.
CLIP = 2.0**-23

_SCALARS = 4

#: No logit of a clipped probability and no loss is larger: -log(CLIP) is 15.94.
_LARGEST = 16.0

#: Above this a float64 no longer tells neighbouring counts apart.
_MOST = 2.0**53


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSums:
    """What a site tells of its predictions: histograms of the score by class, and a few sums.

    Two hospitals' sums add up to exactly the sums of their patients together.

    Attributes:
        positives: [bins] patients with the outcome, by predicted probability; cell k of
            equal width holds k/bins <= p < (k+1)/bins, the last one p = 1 as well.
        negatives: [bins] the same for patients without the outcome.
        logits: [bins] the sum over the cell's patients of log(p / (1 - p)), p clipped to
            [CLIP, 1 - CLIP]. It places a cell's patients within the cell, so that
            calibration hardly feels the binning.
        log_loss: the sum of -log(probability given to what happened), p clipped alike.
        log_loss_sq: the sum of its squares.
        brier: the sum of (p - y)^2.
        brier_sq: the sum of its squares.
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]
    logits: NDArray[np.float64]
    log_loss: float
    log_loss_sq: float
    brier: float
    brier_sq: float

    @staticmethod
    def of(probability: NDArray[np.floating], outcome: NDArray[np.generic], *, bins: int = BINS) -> ScoreSums:
        """The sums of some patients' predictions. The one function here that sees patients.

        Args:
            probability: [n] predicted probability of the outcome, in [0, 1].
            outcome: [n] 1 or true where it happened, 0 or false where not.
            bins: the number of cells.

        Raises:
            DataError: a probability lies outside [0, 1] or is NaN, an outcome is neither 0
                nor 1, or the two differ in length. It names how many, never a value.
        """
        terms = Terms.of([(probability, outcome)])
        return ScoreSums._of_row(terms.sums(bins=bins)[0], bins)

    @staticmethod
    def from_counts(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> ScoreSums:
        """The sums where only the histograms are known: every patient counts as at the middle of the cell."""
        bins = len(positives)
        middle = (np.arange(bins) + 0.5) / bins
        of_positive, of_negative = -np.log(middle), -np.log1p(-middle)
        return ScoreSums(
            positives=positives,
            negatives=negatives,
            logits=(positives + negatives) * (of_negative - of_positive),
            log_loss=float(positives @ of_positive + negatives @ of_negative),
            log_loss_sq=float(positives @ of_positive**2 + negatives @ of_negative**2),
            brier=float(positives @ (1 - middle) ** 2 + negatives @ middle**2),
            brier_sq=float(positives @ (1 - middle) ** 4 + negatives @ middle**4),
        )

    @staticmethod
    def empty(bins: int = BINS) -> ScoreSums:
        """The sums of nobody, which add nothing."""
        return ScoreSums.from_vector(np.zeros(ScoreSums.width(bins)), bins=bins)

    def __add__(self, other: ScoreSums) -> ScoreSums:
        if self.bins != other.bins:
            raise SettingError(
                f"score sums must have equally many bins to be added, found {self.bins} and {other.bins}. "
                "Use one number of bins throughout a study."
            )
        return ScoreSums.from_vector(self.to_vector() + other.to_vector(), bins=self.bins)

    def __sub__(self, part: ScoreSums) -> ScoreSums:
        """The sums of those who are not in `part`; equal bins, and `part` among these patients."""
        return ScoreSums.from_vector(self.to_vector() - part.to_vector(), bins=self.bins)

    def coarser(self, bins: int) -> ScoreSums:
        """The same patients in fewer cells.

        Raises:
            SettingError: the cells don't merge into so many.
        """
        merging(self.bins, bins)
        return replace(
            self,
            positives=self.positives.reshape(bins, -1).sum(axis=1),
            negatives=self.negatives.reshape(bins, -1).sum(axis=1),
            logits=self.logits.reshape(bins, -1).sum(axis=1),
        )

    @property
    def bins(self) -> int:
        """The number of cells."""
        return len(self.positives)

    @property
    def n_positive(self) -> int:
        """How many patients had the outcome."""
        return int(self.positives.sum())

    @property
    def n_negative(self) -> int:
        """How many patients did not have the outcome."""
        return int(self.negatives.sum())

    @property
    def n(self) -> int:
        """How many patients there are."""
        return self.n_positive + self.n_negative

    @staticmethod
    def width(bins: int = BINS) -> int:
        """The length of the vector."""
        return 3 * bins + _SCALARS

    @staticmethod
    def spans(name: str, bins: int = BINS) -> tuple[Span, ...]:
        """What stands in the vector, under names that begin with `name`."""
        return (
            Span(f"{name} counts", 2 * bins, is_whole=True),
            Span(f"{name} logits", bins, _LARGEST),
            Span(f"{name} log loss", 1, _LARGEST),
            Span(f"{name} log loss squared", 1, _LARGEST**2),
            Span(f"{name} Brier", 2),
        )

    def to_vector(self) -> NDArray[np.float64]:
        """[3 bins + 4]: positives, negatives, logits, then the four sums in field order."""
        scalars = np.array([self.log_loss, self.log_loss_sq, self.brier, self.brier_sq])
        return np.concatenate([self.positives, self.negatives, self.logits, scalars])

    @staticmethod
    def from_vector(vector: NDArray[np.float64], bins: int = BINS) -> ScoreSums:
        """The inverse of `to_vector`; also reads a sum of several vectors.

        Raises:
            DataError: the length is wrong, a number is not finite, or a count is negative
                or further than 0.01 from a whole number (a mean in place of a sum, say).
        """
        vector = np.asarray(vector, dtype=np.float64)
        if vector.shape != (ScoreSums.width(bins),):
            raise DataError(
                f"score sums of {bins} bins must be a vector of {ScoreSums.width(bins)} numbers, "
                f"found shape {vector.shape}. Both sides must use the same layout."
            )
        counts = vector[: 2 * bins]
        whole = np.rint(counts)
        # The least and the most of them in place of each, which takes half as long; NaN is neither.
        is_whole = whole.min() >= 0 and whole.max() <= _MOST and np.abs(counts - whole).max() <= 0.01
        if not is_whole or not np.isfinite(vector[2 * bins :]).all():
            raise DataError(
                "score sums must be finite and their counts whole, from 0 to 2**53, found some that are not. "
                "Pass the sum over sites, not their mean."
            )
        return ScoreSums._of_row(np.concatenate([whole, vector[2 * bins :]]), bins)

    @staticmethod
    def _of_row(row: NDArray[np.float64], bins: int) -> ScoreSums:
        """The inverse of `to_vector` for a row whose counts are known to be whole."""
        log_loss, log_loss_sq, brier, brier_sq = row[3 * bins :].tolist()
        return ScoreSums(
            positives=row[:bins].astype(np.int64),
            negatives=row[bins : 2 * bins].astype(np.int64),
            logits=row[2 * bins : 3 * bins].copy(),
            log_loss=log_loss,
            log_loss_sq=log_loss_sq,
            brier=brier,
            brier_sq=brier_sq,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What each patient adds to the score sums of its site; patients of one site or of many, site after site.

    Attributes:
        sites: how many there are.
        site: [n] the place of each patient's.
        probability: [n].
        happened: [n].
        numbers: [5, n] logit, log loss and its square, squared error and its square, on the grain.
    """

    sites: int
    site: NDArray[np.int64]
    probability: NDArray[np.float64]
    happened: NDArray[np.bool_]
    numbers: NDArray[np.float64]

    @classmethod
    def of(cls, each: Sequence[tuple[NDArray[np.floating], NDArray[np.generic]]]) -> Terms:
        """The terms of each site's probabilities and outcomes, [n] each.

        Raises:
            DataError: as `ScoreSums.of`.
        """
        for probability, outcome in each:
            if probability.ndim != 1 or probability.shape != outcome.shape:
                raise DataError(
                    f"there must be one probability and one outcome a patient, found shapes {probability.shape} and "
                    f"{outcome.shape}. Pass two arrays of the same patients."
                )
        p = np.concatenate([probability for probability, _ in each]).astype(np.float64, copy=False)
        y = np.concatenate([outcome for _, outcome in each]).astype(np.float64, copy=False)
        if bad := np.count_nonzero(~((p >= 0) & (p <= 1))):
            raise DataError(
                f"a probability must lie in [0, 1], found {bad} of {len(p)} that do not. "
                "The model may have diverged; lower its learning rate, or pass it through a sigmoid."
            )
        if bad := np.count_nonzero((y != 0) & (y != 1)):
            raise DataError(
                f"an outcome must be 0 or 1, found {bad} of {len(y)} that are not. Leave out patients without one."
            )
        happened = y == 1
        clipped = np.clip(p, CLIP, 1 - CLIP)
        loss, square = -np.log(np.where(happened, clipped, 1 - clipped)), (p - y) ** 2
        numbers = np.array([np.log(clipped) - np.log1p(-clipped), loss, loss**2, square, square**2])
        site = np.repeat(np.arange(len(each)), [len(outcome) for _, outcome in each])
        return cls(len(each), site, p, happened, rounded(numbers))

    def sums(self, *, bins: int, merged: int = 1, inside: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """[sites, width] each site's score sums, of all patients or those `inside`; of its cells `merged` make one."""
        chosen = slice(None) if inside is None else inside
        site, happened, numbers = self.site[chosen], self.happened[chosen], self.numbers[:, chosen]
        cells = bins // merged
        cell = np.minimum((self.probability[chosen] * bins).astype(np.int64), bins - 1) // merged
        rows = np.empty((self.sites, ScoreSums.width(cells)))
        counts = np.bincount((2 * site + ~happened) * cells + cell, minlength=2 * cells * self.sites)
        rows[:, : 2 * cells] = counts.reshape(self.sites, -1)
        logits = np.bincount(site * cells + cell, weights=numbers[0], minlength=cells * self.sites)
        rows[:, 2 * cells : 3 * cells] = logits.reshape(self.sites, -1)
        for place, terms in enumerate(numbers[1:], start=3 * cells):
            rows[:, place] = np.bincount(site, weights=terms, minlength=self.sites)
        return rows


class Scored(NamedTuple):
    """One site's patients and their predicted probabilities, of which a summary is told.

    Attributes:
        probability: [n] predicted probability of the outcome.
        outcome: [n] 0 or 1.
        members: by group, [n] whether the patient belongs to it. A group that is left
            out has nobody here (the site may not record it, or withholds it).
        survival: of these patients and those whose status at the horizon is not known.
    """

    probability: NDArray[np.floating]
    outcome: NDArray[np.generic]
    members: Mapping[str, NDArray[np.bool_]] = MappingProxyType({})
    survival: SurvivalSums | None = None


@dataclass(frozen=True, slots=True)
class SummaryLayout:
    """Where the whole cohort and each group lie in the one vector a site sends.

    The whole cohort comes first, then the groups in the order given, then the survival sums
    where patients are followed. Both sides build the layout from the study, so the vector
    carries no names.

    Attributes:
        groups: each group's name, such as "sex=female".
        bins: cells for the whole cohort.
        group_bins: cells for each group; fewer, since groups are many and small.
        is_followed: whether patients are followed over time. The histograms are then of those
            whose status at the horizon is known.
        is_noisy: whether a site sends the two histograms alone, with noise for privacy. Counts may
            then be below 0 and no whole numbers; a sum over sites is mended and not each site's part.
    """

    groups: tuple[str, ...] = ()
    bins: int = BINS
    group_bins: int = GROUP_BINS
    is_followed: bool = False
    is_noisy: bool = False

    def __post_init__(self) -> None:
        if len(set(self.groups)) < len(self.groups):
            raise SettingError(f"a group must be named once, found {', '.join(self.groups)}. Rename one.")

    @classmethod
    def of(cls, study: Study, *, grouped: bool) -> SummaryLayout:
        """The layout of a study's evaluations, with or without its groups; where they are noisy, always without."""
        if study.score_bins is not None:
            return cls(bins=study.score_bins, is_noisy=True)
        return cls(groups=study.features.group_names if grouped else (), is_followed=study.task.follow_up is not None)

    @property
    def width(self) -> int:
        """The length of the vector."""
        if self.is_noisy:
            return 2 * self.bins
        followed = SurvivalSums.width() if self.is_followed else 0
        return ScoreSums.width(self.bins) + len(self.groups) * ScoreSums.width(self.group_bins) + followed

    def spans(self) -> tuple[Span, ...]:
        """What stands in the vector."""
        if self.is_noisy:
            return (Span("all counts", 2 * self.bins),)
        return (
            *ScoreSums.spans("all", self.bins),
            *(span for name in self.groups for span in ScoreSums.spans(name, self.group_bins)),
            *(SurvivalSums.spans() if self.is_followed else ()),
        )

    def summarise(
        self,
        probability: NDArray[np.floating],
        outcome: NDArray[np.generic],
        members: Mapping[str, NDArray[np.bool_]] | None = None,
        survival: SurvivalSums | None = None,
    ) -> NDArray[np.float64]:
        """[width] the vector of one site's patients, which are as in `Scored`.

        Raises:
            DataError: as `ScoreSums.of`.
            SettingError: a group the layout does not have.
        """
        return self.summarise_each([Scored(probability, outcome, members or {}, survival)])[0]  # type: ignore[no-any-return]

    def summarise_each(self, each: Sequence[Scored]) -> NDArray[np.float64]:
        """[sites, width] the vectors of some sites, each the one it has alone bit for bit.

        Raises:
            DataError: as `ScoreSums.of`, for any of them.
            SettingError: a group the layout does not have.
        """
        if self.is_noisy:
            # Whether a hospital fails must not tell of a patient: whoever chose the weights can make one
            # patient's score no number, and the failure itself leaves without noise.
            each = [one._replace(probability=np.nan_to_num(one.probability, nan=0.5)) for one in each]
        terms = Terms.of([(one.probability, one.outcome) for one in each])
        overall = terms.sums(bins=self.bins)
        if self.is_noisy:
            return overall[:, : 2 * self.bins]
        if unknown := sorted({name for one in each for name in one.members} - set(self.groups)):
            raise SettingError(
                f"a group must be one of {', '.join(self.groups) or 'none'}, found {', '.join(unknown)}. "
                "Add it to the study's groups."
            )
        parts = [overall]
        for name in self.groups:
            nobody = (np.zeros(len(one.outcome), dtype=bool) for one in each)
            inside = np.concatenate([one.members.get(name, none) for one, none in zip(each, nobody, strict=True)])
            # Binned finely and then merged: so each group's cells are whole cells of the cohort's, on every border.
            parts.append(terms.sums(bins=self.bins, merged=merging(self.bins, self.group_bins), inside=inside))
        if self.is_followed:
            parts.append(np.array([(one.survival or SurvivalSums()).to_vector() for one in each]))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else overall

    def unpack(self, vector: NDArray[np.float64]) -> tuple[ScoreSums, dict[str, ScoreSums]]:
        """The whole cohort's sums and each group's, from a site's vector or a sum of them.

        Raises:
            DataError: the vector is not of this layout.
        """
        if vector.shape != (self.width,):
            raise DataError(
                f"a summary of this layout must be a vector of {self.width} numbers, found shape {vector.shape}. "
                "Both sides must run the same study."
            )
        if self.is_noisy:
            counts = mended(vector)
            return ScoreSums.from_counts(counts[: self.bins], counts[self.bins :]), {}
        first, each = ScoreSums.width(self.bins), ScoreSums.width(self.group_bins)
        overall = ScoreSums.from_vector(vector[:first], bins=self.bins)
        rows = vector[first : first + len(self.groups) * each].reshape(len(self.groups), each)
        return overall, {
            name: ScoreSums.from_vector(row, bins=self.group_bins) for name, row in zip(self.groups, rows, strict=True)
        }

    def survival(self, vector: NDArray[np.float64]) -> SurvivalSums | None:
        """The survival sums in a site's vector or a sum of them; None where patients are not followed.

        Raises:
            DataError: they can't be such sums.
        """
        return SurvivalSums.from_vector(vector[-SurvivalSums.width() :]) if self.is_followed else None

    def check(self, vector: NDArray[np.float64]) -> None:
        """Refuse a vector that can't be counts of patients.

        Raises:
            DataError: it is not of this layout, the groups of a grouping hold more patients
                than the cohort, or those of unknown status are not the rest of the patients.
        """
        overall, groups = self.unpack(vector)
        survival = self.survival(vector)
        if survival is not None and overall.n + survival.censored != survival.patients:
            raise DataError(
                "the patients must be those of known and of unknown status at the horizon, found others. "
                "Count each patient once."
            )
        whole = (
            {
                side: getattr(overall, side).reshape(self.group_bins, -1).sum(axis=1)
                for side in ("positives", "negatives")
            }
            if groups
            else {}
        )
        for grouping in {name.partition("=")[0] for name in groups}:
            members = [sums for name, sums in groups.items() if name.partition("=")[0] == grouping]
            if any((np.sum([getattr(each, side) for each in members], axis=0) > whole[side]).any() for side in whole):
                raise DataError(
                    f"the groups of {grouping} must hold no more patients than the cohort, found more. "
                    "Each patient belongs to one group of a grouping at most."
                )


def merging(bins: int, wanted: int) -> int:
    """How many cells make one where so many are wanted.

    Raises:
        SettingError: the cells don't merge evenly.
    """
    if bins % wanted:
        raise SettingError(f"{bins} cells must merge evenly, found {wanted} wanted. Choose a divisor.")
    return bins // wanted


def mended(noisy: NDArray[np.float64]) -> NDArray[np.int64]:
    """The whole counts of 0 or more that are nearest to noisy ones with the same total, [n].

    Setting negative counts to 0 alone would add patients to the cells where nobody is. So the
    same amount is taken off every cell until what is left above 0 has the total (the projection on a
    simplex: Held, Wolfe and Crowder 1974, doi:10.1007/BF01580223).

    Raises:
        DataError: a count is not finite, or beyond any number of patients.
    """
    if not np.isfinite(noisy).all() or (np.abs(noisy) > _MOST).any():
        raise DataError("noisy counts must be finite and within 2**53, found some that are not. Check the hospital.")
    total = float(noisy.sum())
    if total <= 0:
        return np.zeros(len(noisy), dtype=np.int64)
    falling = np.sort(noisy)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, len(noisy) + 1)
    taken = excess[np.flatnonzero(falling > excess)[-1]]
    return np.rint(np.maximum(noisy - taken, 0)).astype(np.int64)  # type: ignore[no-any-return]
