"""FHIR R4: resources from bulk NDJSON and bundles, one after the other, and what is read off one.

A line that is no JSON is quarantined by file and number, and the next one is read. Of a bundle
one file is in memory at a time, of NDJSON one line.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from fedhealth.core.errors import DataError
from fedhealth.core.table import Quarantined
from fedhealth.site.stays import DAY_S, Person, Visit

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

Resource = dict[str, Any]

LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
ENDINGS = (".ndjson", ".ndjson.gz", ".json", ".json.gz")
#: An Observation or Condition that is not to be believed (hl7.org/fhir/R4, observation-status, condition-ver-status).
VOID = {"entered-in-error", "cancelled", "refuted"}
_TYPE = re.compile(rb'"resourceType"\s*:\s*"([A-Za-z]+)"')


class Value(NamedTuple):
    """One value of an Observation: the codes that name it, what it is, and its unit."""

    codes: list[str]
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Files:
    """The FHIR files of a hospital, read as often as is asked."""

    paths: tuple[Path, ...]
    quarantine: dict[str, Quarantined] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path) -> Files:
        """A file, or all of a folder by name.

        Raises:
            DataError: there is none.
        """
        paths = sorted(path.iterdir()) if path.is_dir() else [path]
        found = tuple(each for each in paths if each.name.lower().endswith(ENDINGS))
        if not found:
            raise DataError(
                f"{path} must hold FHIR in files {', '.join(ENDINGS)}, found none. Correct source.path, or export again."
            )
        return cls(found)

    def resources(self, kinds: Collection[str]) -> Iterator[tuple[str, Resource]]:
        """Where each resource of these kinds stands, and the resource."""
        for path in self.paths:
            try:
                with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
                    whole = ".ndjson" not in path.name.lower()
                    yield from self._bundle(path, file, kinds) if whole else self._lines(path, file, kinds)
            except (OSError, EOFError) as error:
                raise DataError(
                    f"{path} must be readable to its end, found a {type(error).__name__}. Export it again."
                ) from None

    def _lines(
        self, path: Path, file: BinaryIO | gzip.GzipFile, kinds: Collection[str]
    ) -> Iterator[tuple[str, Resource]]:
        wanted = {kind.encode() for kind in kinds}
        for number, line in enumerate(file, start=1):
            named = set(_TYPE.findall(line))
            # A resource may contain others, so its own kind is known only once it is read.
            if not line.strip() or (named and not named & wanted):
                continue
            place = f"{path.name}:{number}"
            found = self._read(place, line)
            if found is not None and found.get("resourceType") in kinds:
                yield place, found

    def _bundle(
        self, path: Path, file: BinaryIO | gzip.GzipFile, kinds: Collection[str]
    ) -> Iterator[tuple[str, Resource]]:
        bundle = self._read(path.name, file.read())
        entries = bundle.get("entry") if bundle else None
        for number, entry in enumerate(entries if isinstance(entries, list) else (), start=1):
            found = entry.get("resource") if isinstance(entry, dict) else None
            if isinstance(found, dict) and found.get("resourceType") in kinds:
                yield f"{path.name}#{number}", found

    def _read(self, place: str, text: bytes) -> Resource | None:
        try:
            found = json.loads(text)
        except UnicodeDecodeError:
            code = "not_utf8"
        except (ValueError, RecursionError):
            code = "invalid_json"
        else:
            if isinstance(found, dict):
                return found
            code = "no_resource"
        self.quarantine[place] = Quarantined(place, code)
        return None


def codes_of(concept: object, system: str, local: Collection[str] = ()) -> list[str]:
    """The codes of a CodeableConcept in a system, and of any system those of `local`."""
    codings = concept.get("coding") if isinstance(concept, dict) else None
    return [
        str(coding.get("code"))
        for coding in (codings if isinstance(codings, list) else ())
        if isinstance(coding, dict) and (coding.get("system") == system or coding.get("code") in local)
    ]


def who(reference: object) -> str:
    """The id of the patient that a Reference names, as `Patient/x`, as a URL or as `urn:uuid:x`."""
    found = reference.get("reference") if isinstance(reference, dict) else None
    return re.split(r"[/:]", found)[-1] if isinstance(found, str) else ""


def moment(text: object) -> float:
    """Seconds since 1970 of a date or dateTime, the beginning of what it leaves open; NaN where it is none."""
    if not isinstance(text, str):
        return math.nan
    parts = text.split("-")
    try:
        if len(text) <= 7:  # a year, or a year and a month
            return datetime(int(parts[0]), int(parts[1]) if len(parts) > 1 else 1, 1, tzinfo=UTC).timestamp()
        found = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def observed(resource: Resource, local: Collection[str]) -> tuple[float, list[Value]]:
    """When an Observation was made, and its values: its own and those of its components."""
    when = next(
        (
            found
            for found in (
                moment(resource.get("effectiveDateTime")),
                moment(resource.get("effectiveInstant")),
                moment((resource.get("effectivePeriod") or {}).get("start")),
            )
            if not math.isnan(found)
        ),
        math.nan,
    )
    if resource.get("status") in VOID:
        return when, []
    components = resource.get("component")
    parts = [resource, *(components if isinstance(components, list) else ())]
    return when, [_value(part, local) for part in parts if isinstance(part, dict)]


def _value(part: Resource, local: Collection[str]) -> Value:
    codes, quantity = codes_of(part.get("code"), LOINC, local), part.get("valueQuantity")
    if isinstance(quantity, dict):
        unit = quantity.get("code") or quantity.get("unit") or ""
        return Value(codes, _number(quantity.get("value")), str(unit))
    for key in ("valueInteger", "valueDecimal", "valueBoolean"):
        if key in part:
            return Value(codes, _number(part[key]), "")
    # Words where a number is asked for are counted as no number; nothing at all is a missing value.
    return Value(
        codes, math.inf if any(key in part for key in ("valueString", "valueCodeableConcept")) else math.nan, ""
    )


def _number(found: object) -> float:
    if isinstance(found, int | float):
        return float(found)
    return math.nan if found is None else math.inf


def person_of(resource: Resource) -> Person:
    """Who a Patient is."""
    dead = moment(resource.get("deceasedDateTime"))
    known_dead = not math.isnan(dead) or resource.get("deceasedBoolean") is True
    return Person(
        birth=moment(resource.get("birthDate")),
        female={"female": 1.0, "male": 0.0}.get(str(resource.get("gender")), math.nan),
        death=dead if known_dead else None,
    )


def visit_of(resource: Resource) -> tuple[str, Visit]:
    """The class of an Encounter, and from when to when it was."""
    period = resource.get("period")
    start, end = (period.get("start"), period.get("end")) if isinstance(period, dict) else (None, None)
    kind = resource.get("class")
    ended = moment(end)
    if isinstance(end, str) and len(end) <= 10:
        ended += DAY_S - 1  # a day without an hour ends at its end
    visit = Visit(person=who(resource.get("subject")), name=str(resource.get("id", "")), start=moment(start), end=ended)
    return str(kind.get("code", "")) if isinstance(kind, dict) else "", visit


def forbids(resource: Resource) -> bool:
    """Whether a Consent that is in force denies, whatever it is about."""
    provision = resource.get("provision")
    return resource.get("status") == "active" and isinstance(provision, dict) and provision.get("type") == "deny"
