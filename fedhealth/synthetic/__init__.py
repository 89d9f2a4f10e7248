"""Simulated hospitals whose patients have a known true risk, and partitions of pooled tables.

    hospital.py     what may differ from the average hospital (the `source:` of a site.yaml)
    generator.py    the chain: who comes -> how ill -> body -> treatment -> risk -> outcome
                    -> devices, missing values, local units
    physiology.py   what is measured, around the medians of a real intensive care unit
    outcomes/       one file a task: the logit of its outcome, or the log of its hazard
    weibull.py      times to an event from that hazard, and when follow-up ends
    between.py      hospitals drawn from one knob h of between-hospital difference
    partition.py    parts of any pooled table
    drawn.py        one such hospital's manifest
    folders.py      drawn hospitals and parts written as `sites/<name>/` folders

The site room sees a hospital's table only. The true risk is the oracle: a simulation
reads it to say what the best possible model would reach, and no client ever does.
"""

from fedhealth.synthetic.generator import UNITS, Generated, generate
from fedhealth.synthetic.hospital import Hospital

__all__ = ["UNITS", "Generated", "Hospital", "generate"]
