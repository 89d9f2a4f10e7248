"""Consent: the first rule on the way from a source to a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedhealth.core.table import Table


def permitted(table: Table) -> Table:
    """The rows of the patients who allow research use; no other row goes any further."""
    return table.rows(table.consent)
