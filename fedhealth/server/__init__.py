"""The coordinator: plan, rounds, checkpoints, results. It never sees a patient's row.

plan ─→ statistics (two sums) ─→ rounds ─→ final evaluation ─→ results
"""
