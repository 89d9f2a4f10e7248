"""The hospital's side, and the only room that may hold patients.

    source ─rows→ Table ─permitted (consent)→ ─harmonise (quality)→ Cohort ─part→ train | validation | test

What a hospital's security officer has to read is this folder and the leaves it imports.
Nothing here imports `fedhealth.server`, and the server loads nothing from here.
"""
