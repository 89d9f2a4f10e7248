"""Strategies: what the coordinator makes of the hospitals' updates.

A strategy is a `flwr.serverapp.strategy.Strategy`. Flower's own are used unmodified,
named in `configs/strategy/*.yaml` by `_target_`; any other that can be imported plugs in
the same way from the command line. `needs.py` says of each whether the sum of the
updates is enough or each one must be seen; `state.py` carries a strategy's memory through
a checkpoint.
"""
