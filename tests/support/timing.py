"""Ratios of times for the benches: measured in one run, interleaved, medians."""

import statistics
import time
from collections.abc import Callable


def interleaved(*calls: Callable[[], object], rounds: int = 7) -> list[float]:
    """Median seconds of each call; every round makes each call once, after one warm-up of all."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, spent in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]
