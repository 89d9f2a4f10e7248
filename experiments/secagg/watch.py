"""Processor time by whoever spent it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass


class Watch:
    """Seconds of processor time spent by each of several; on a quiet machine, the time it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, who, step, *given):
        began = time.process_time()
        result = step(*given)
        self.seconds[who] = self.seconds.get(who, 0.0) + time.process_time() - began
        return result


@dataclass(frozen=True)
class Cost:
    """Of one round: seconds of one site and of the coordinator, and the bytes a site sends."""

    site_s: float
    server_s: float
    site_bytes: int


def median(costs: list[Cost]) -> Cost:
    """Of each part by itself."""
    return Cost(*(statistics.median(getattr(cost, part) for cost in costs) for part in Cost.__dataclass_fields__))
