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
_MANY_SHARES = 8
_HEAD_START = 1_000_000  # cycles, about half a millisecond


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
    """How many input sets fill three times the last cache; at least 3, but 1 where one set alone is
    so much larger than the cache that a call finds nothing of the one before."""
    if size >= 16 * cache_bytes(device):
        return 1
    return max(3, -(-3 * cache_bytes(device) // max(size, 1)))


def by_turns(
    calls: dict[str, Callable[[int], Any]], *, seconds: float, device: str, rounds: int = 5
) -> dict[str, Times]:
    """Times each call, the calls taking turns, for about `seconds` in all.

    A call takes the number of its turn, by which it chooses its inputs. One that has had `rounds`
    turns and its share of the time rests, so that a slow call does not take the others' turns; one
    that has had three turns and several times its share rests too, and after a single turn one that
    took many times its share.
    """
    share = seconds / len(calls)
    for call in calls.values():  # compiles, first touches, thread pools
        start = time.perf_counter()
        call(0)
        if time.perf_counter() - start < max(1.0, share):
            call(1)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in itertools.count():
        awake = [name for name, times in found.items() if not _rests(times, share, rounds)]
        if not awake:
            break
        for name in awake:
            found[name].append(_one(calls[name], turn, device))
    return {name: summary(values) for name, values in found.items()}


def _rests(times: list[float], share: float, rounds: int) -> bool:
    spent = sum(times)
    if times and times[-1] > _MANY_SHARES * share > 0:
        return True
    return (len(times) >= rounds and spent >= share) or (len(times) >= 3 and spent > 4 * share > 0)


def _one(call: Callable[[int], Any], turn: int, device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        call(turn)
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # The device sleeps while the host queues the call, so that no launch is waited for between the
    # two events: what is measured is the device's time.
    torch.cuda._sleep(_HEAD_START)
    begin.record()
    call(turn)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def host_seconds(call: Callable[[int], Any], calls: int = 200) -> float:
    """Median seconds that the host spends in one warm call, the device's work left out."""
    found = []
    for turn in range(calls):
        if torch.cuda.is_available() and turn % 50 == 0:
            torch.cuda.synchronize()  # a full queue would make the host wait
        start = time.perf_counter()
        call(turn)
        found.append(time.perf_counter() - start)
    return median(found)


def summary(values: Sequence[float]) -> Times:
    """The statistics of some measured seconds."""
    quarter = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return Times(min(values), median(values), quarter[0], quarter[2], len(values))
