"""Studies that ask once and train nothing, for tables or for a synthetic release: a training study's document, made into one.

What is asked stands in the document, so that hospitals approve it and nothing else is answered. The options
by which people say it are the same wherever a study is made.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

#: The chance with which the epsilon of tables may fail, where nobody says another.
DELTA = 1e-5
#: The part that makes a study one of a release.
RELEASE = "fedhealth.privacy.release.Release"


#: How a column beside is asked for; `--by` where that is nobody's name.
BESIDE = ("--beside", "--by")


def add_tables(parser: argparse.ArgumentParser, *, required: bool, beside: Sequence[str] = BESIDE) -> None:
    """Add the options that say which tables are asked for, and with how much noise."""
    parser.add_argument(
        "--features", required=required, metavar="A,B", help="tables of these columns: features, the outcome's, or that of "
        "follow-up times",
    )  # fmt: skip
    parser.add_argument(*beside, dest="beside", metavar="C", help="a column beside each of them")
    parser.add_argument("--times", metavar="T,…", help="up to which events are told; default: quarters of the horizon")
    parser.add_argument("--epsilon", type=float, help="what a patient loses at most by all of it; default: no noise")
    parser.add_argument(
        "--delta", type=float, help=f"the chance with which that may fail; default for tables: {DELTA:g}"
    )


def add_questions(parser: argparse.ArgumentParser, *, beside: Sequence[str] = BESIDE) -> None:
    """Add the options of a study of tables, and of one of a release."""
    add_tables(parser, required=False, beside=beside)
    parser.add_argument("--synthesize", action="store_true", help="synthetic patients, with --epsilon")


def asks_once(document: Mapping[str, Any]) -> bool:
    """Whether a study's document is one of tables or of a release."""
    return bool(document.get("tabulation")) or document["privacy"].get("_target_") == RELEASE


def words_of(chosen: argparse.Namespace) -> list[str]:
    """The config's words that the options of `add_questions` stand for, those that were given among them.

    Raises:
        SettingError: the options do not go together.
    """
    words = [*chosen.overrides]
    if chosen.features and chosen.synthesize:
        raise SettingError(
            "a study asks for tables or for a release, found --features and --synthesize. Make two studies of them."
        )
    if chosen.synthesize:
        return release_words(words, chosen.epsilon, chosen.delta)
    loose = [name for name in ("beside", "times", "epsilon", "delta") if getattr(chosen, name) is not None]
    if loose and not chosen.features:
        raise SettingError(
            f"--{loose[0]} must go with tables or a release, found it with neither. Give --features or --synthesize; a "
            "study that trains has privacy.epsilon=…"
        )
    return words


def said(chosen: argparse.Namespace) -> list[str]:
    """What somebody said of a study, in words and by the options of `add_questions`, as they typed it."""
    options = ("features", "beside", "times", "epsilon", "delta", "synthesize")
    return [*chosen.overrides, *(f"--{name}" for name in options if getattr(chosen, name) not in (None, False))]


def document_asked(document: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """The document of `words_of`, as the options of `add_questions` have it.

    Raises:
        SettingError: there is no such table, or epsilon is out of range.
    """
    if not chosen.features:
        return document
    return of_tables(document, tabulation_of(chosen), epsilon=chosen.epsilon, delta=chosen.delta)


def tabulation_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """The tabulation that the options say, as `core.tabulation` reads it.

    Raises:
        SettingError: no column is named, or a time is no number.
    """
    columns = [name.strip() for name in chosen.features.split(",") if name.strip()]
    if not columns:
        raise SettingError("--features must name a column, found none. Separate several by commas.")
    beside = [chosen.beside] if chosen.beside else []
    try:
        times = [float(time) for time in (chosen.times or "").split(",") if time.strip()]
    except ValueError:
        raise SettingError(f"--times must be numbers, found {chosen.times!r}. Write 90,180,365.") from None
    return {"tables": [[column, *beside] for column in columns], "times": times}


def of_tables(
    document: Mapping[str, Any], tabulation: Mapping[str, Any], *, epsilon: float | None, delta: float | None = None
) -> dict[str, Any]:
    """The document of a study of tables, with the patients, hospitals and masks of another.

    Args:
        document: the other's.
        tabulation: as `core.tabulation` reads it.
        epsilon: what a patient loses at most; None for no noise.
        delta: the chance with which that may fail; None for `DELTA`.

    Raises:
        SettingError: a private study's tables would be without noise, there is no such table, or epsilon is out of range.
    """
    from fedhealth.core.parts import build
    from fedhealth.core.study import packed, study_from, unpacked
    from fedhealth.evaluation.tables import TableLayout

    study = study_from(document)
    if epsilon is None and study.score_bins is not None:
        raise SettingError(
            "the tables of a private study must have noise, found no --epsilon. Give it, or use privacy=plain."
        )
    is_masked = bool(build(study.secagg, where="secagg", room="fedhealth.secagg", does="seal").is_masked)
    privacy = _privacy(epsilon, DELTA if delta is None else delta, is_masked=is_masked)
    # In the one form and order in which a hospital reads it.
    made = unpacked(packed({**document, "tabulation": tabulation, "privacy": privacy}))
    TableLayout.of(study_from(made, where="the study of tables"))
    return made


def release_words(words: Sequence[str], epsilon: float | None, delta: float | None = None) -> list[str]:
    """The config's words of a study of a release: masked, unless they say otherwise.

    Raises:
        SettingError: there is no epsilon.
    """
    if epsilon is None:
        raise SettingError(
            "a release must have an epsilon, found none. Give --epsilon, such as 3; without noise it is no release."
        )
    masks = [] if any(word.startswith("secagg=") for word in words) else ["secagg=masked"]
    chance = [] if delta is None else [f"privacy.delta={delta!r}"]
    return [*words, *masks, "privacy=release", f"privacy.epsilon={epsilon!r}", *chance]


def _privacy(epsilon: float | None, delta: float, *, is_masked: bool) -> dict[str, Any]:
    """The privacy of tables: of noise at each hospital, shared among them under masks, or none."""
    from fedhealth.privacy.accountant import check_delta, noise_multiplier
    from fedhealth.privacy.distributed import Distributed
    from fedhealth.privacy.dp_sgd import DpSgd

    if epsilon is None:
        return {"_target_": "fedhealth.privacy.plain.Plain"}
    check_delta(delta)
    noise = noise_multiplier(epsilon_target=epsilon, delta=delta, sampling_rate=1.0, steps=1)
    kind = Distributed if is_masked else DpSgd
    settings = asdict(kind(epsilon=epsilon, delta=delta, statistics_noise=noise))
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **settings}
