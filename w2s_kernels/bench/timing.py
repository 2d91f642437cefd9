"""Times calls by turns, so that what disturbs the machine disturbs all of them alike."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

_LAST_LEVEL_CACHE = 64 << 20  # where the machine does not tell


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the least, the median and the quartiles over the rounds."""

    least: float
    median: float
    lower: float
    upper: float
    rounds: int


def cache_bytes(device: str) -> int:
    """Size of the last cache before memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = []
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << (10 if text.endswith("K") else 20))
    return max(sizes, default=_LAST_LEVEL_CACHE)


def copies_for(size: int, device: str) -> int:
    """How many input sets fill three times the last cache; at least 3."""
    return max(3, -(-3 * cache_bytes(device) // max(size, 1)))


def by_turns(
    calls: dict[str, Callable[[int], Any]], *, seconds: float, device: str, rounds: int = 5
) -> dict[str, Times]:
    """Times each call, the calls taking turns, for about `seconds` in all.

    A call takes the number of its turn, by which it chooses its inputs. One that has had `rounds`
    turns and its share of the time rests, so that a slow call does not take the others' turns.
    """
    for call in calls.values():  # compiles, first touches, thread pools
        call(0)
        call(1)
    found: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / len(calls)
    for turn in itertools.count():
        awake = [n for n, times in found.items() if len(times) < rounds or sum(times) < share]
        if not awake:
            break
        for name in awake:
            found[name].append(_one(calls[name], turn, device))
    return {name: summary(values) for name, values in found.items()}


def _one(call: Callable[[int], Any], turn: int, device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        call(turn)
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call(turn)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def summary(values: Sequence[float]) -> Times:
    """The statistics of some measured seconds."""
    quarter = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return Times(min(values), median(values), quarter[0], quarter[2], len(values))
