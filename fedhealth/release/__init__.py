"""Release: synthetic patients from one noisy sum of counts.

    noisy counts ─smoothed→ ─fitted→ a mixture of patients ─drawn→ cells ─table→ values a CSV file holds
                                                                                ─card→ what it is and what it is not for

Nothing here sees a patient: what goes in is the sum that the coordinator opened, so whatever is made of it
costs a patient no more than the sum did, however often. How good a release is only hospitals can say
(`site.release_check`).
"""
