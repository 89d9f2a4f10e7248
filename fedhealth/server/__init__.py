"""The coordinator: plan, rounds, checkpoints, results. It never sees a patient's row.

plan ─→ statistics (two sums) ─→ rounds ─→ final evaluation ─→ results

Each arrow asks hospitals through a grid: `runtime.policy`'s gives each one's answer, in a
masked study `secure_grid`'s gives one sum.
"""
