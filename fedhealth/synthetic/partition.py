"""Parts of a pooled table: for each row, the number of the part it goes to.

Every scheme gives every part at least `least` rows, or refuses. The draw is named by
(seed, scheme), so the same table gives the same parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.errors import DataError, SettingError
from fedhealth.core.seeds import rng_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def natural(column: Sequence[str], *, least: int = 1) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """[n] the part of each row, and the parts' names: the values of a column, sorted.

    Raises:
        DataError: a value has fewer than `least` rows.
    """
    names, parts, counts = np.unique(np.asarray(column, dtype=np.str_), return_inverse=True, return_counts=True)
    short = int((counts < least).sum())
    if short or not len(names):
        raise DataError(
            f"each natural part must have at least {least} rows, found {short} of {len(names)} that have fewer. "
            "Lower the least number, or join small parts in the column."
        )
    return parts.astype(np.int64), tuple(str(name) for name in names)


def iid(n: int, parts: int, *, seed: int, least: int = 1) -> NDArray[np.int64]:
    """[n] parts of equal size, give or take one row, drawn at random."""
    _check(n, parts, least)
    return _dealt(_even(n, parts), rng_of(seed, purpose="partition/iid"))


def dirichlet(labels: NDArray[np.generic], parts: int, *, alpha: float, seed: int, least: int = 1) -> NDArray[np.int64]:
    """[n] parts whose shares of each label are a Dirichlet(alpha) draw: the smaller, the more skewed.

    After Hsu, Qi and Brown 2019, arXiv:1909.06335, section 3, with the draw by label over
    parts. Parts that come out short are filled with rows of the largest.
    """
    _check(len(labels), parts, least)
    _check_positive("alpha", alpha)
    rng = rng_of(seed, purpose="partition/dirichlet")
    part = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shares = rng.dirichlet(np.full(parts, alpha))
        part[rows] = _dealt(_sizes(shares, len(rows)), rng)
    return _filled(part, parts, least, rng)


def quantity(
    n: int, parts: int, *, spread: float = 1.0, law: str = "lognormal", seed: int, least: int = 1
) -> NDArray[np.int64]:
    """[n] parts of unequal size, alike in everything else.

    Args:
        n: rows of the table.
        parts: how many parts.
        spread: the standard deviation of the log size (`lognormal`), or the exponent of
            the rank (`zipf`: the k-th part gets a share of k^-spread).
        law: `lognormal` or `zipf`.
        seed: names the draw.
        least: rows that every part has at least.
    """
    _check(n, parts, least)
    _check_positive("spread", spread)
    rng = rng_of(seed, purpose="partition/quantity")
    if law == "lognormal":
        weights = np.exp(spread * rng.standard_normal(parts))
    elif law == "zipf":
        weights = np.arange(1, parts + 1, dtype=np.float64) ** -spread
    else:
        raise SettingError(f"law must be lognormal or zipf, found {law!r}. Choose one.")
    return _dealt(least + _sizes(weights / weights.sum(), n - least * parts), rng)


def feature_shift(x: NDArray[np.float64], parts: int, *, least: int = 1) -> NDArray[np.int64]:
    """[n] parts of equal size, give or take one row, cut along the first principal component.

    Nothing is drawn. A missing value counts as its column's mean.

    Args:
        x: [n, d] with NaN for missing.
        parts: how many parts.
        least: rows that every part has at least.
    """
    n = len(x)
    _check(n, parts, least)
    part = np.empty(n, dtype=np.int64)
    part[np.argsort(first_component(x), kind="stable")] = np.repeat(np.arange(parts), _even(n, parts))
    return part


def first_component(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] the rows' scores on the first principal component of the standardised columns.

    The component's largest loading is positive, since its sign is arbitrary.
    """
    seen = np.isfinite(x)
    count = np.maximum(seen.sum(axis=0), 1)
    centred = np.where(seen, x - np.where(seen, x, 0).sum(axis=0) / count, 0)
    spread = np.sqrt(np.square(centred).sum(axis=0) / count)
    scaled = centred / np.where(spread > 0, spread, 1)
    loadings = np.linalg.eigh(scaled.T @ scaled).eigenvectors[:, -1]
    loadings = loadings * np.sign(loadings[np.argmax(np.abs(loadings))])
    scores: NDArray[np.float64] = scaled @ loadings
    return scores


def _even(n: int, parts: int) -> NDArray[np.int64]:
    """[parts] sizes that sum to n and differ by one row at most."""
    return n // parts + (np.arange(parts) < n % parts).astype(np.int64)


def _sizes(shares: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """[parts] whole sizes that sum to n, by largest remainder."""
    exact = shares * n
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: n - int(sizes.sum())]] += 1
    return sizes


def _dealt(sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """[sum of sizes] parts of those sizes in random order."""
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def _filled(part: NDArray[np.int64], parts: int, least: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The parts with every one at `least` rows, taken at random from the largest."""
    sizes = np.bincount(part, minlength=parts)
    while sizes.min() < least:
        short, largest = int(sizes.argmin()), int(sizes.argmax())
        moved = min(least - int(sizes[short]), int(sizes[largest]) - least)
        part[rng.choice(np.flatnonzero(part == largest), size=moved, replace=False)] = short
        sizes = np.bincount(part, minlength=parts)
    return part


def _check(n: int, parts: int, least: int) -> None:
    if parts < 1 or least < 0:
        raise SettingError(f"a split needs at least 1 part and 0 rows a part, found {parts} and {least}. Raise them.")
    if n < parts * max(least, 1):
        raise SettingError(
            f"a split into {parts} parts of at least {max(least, 1)} rows needs {parts * max(least, 1)} rows, found {n}. "
            "Ask for fewer parts or fewer rows a part."
        )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise SettingError(f"{name} must be above 0, found {value:g}. Raise it.")
