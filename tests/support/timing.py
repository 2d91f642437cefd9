"""Times calls by turns on inputs that rotate through more than the caches hold: medians.

On a shared machine an absolute time means little; a ratio of medians that were taken by turns does.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

CACHE_BYTES = 256e6  # inputs that rotate through this much do not flatter by lying in a cache


def rotated(make: Callable[[int], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """make(0), make(1), … until they fill CACHE_BYTES."""
    first = make(0)
    size = sum(x.numel() * x.element_size() for x in first)
    return [first, *(make(i) for i in range(1, max(2, int(CACHE_BYTES / size))))]


def medians(
    calls: dict[str, Callable[..., Any]], inputs: Sequence[tuple[Tensor, ...]], rounds: int = 30
) -> dict[str, float]:
    """Median seconds of each call on the rotating inputs, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    turn = 0
    for round_ in range(rounds + 2):
        for name, call in calls.items():
            arguments = inputs[turn % len(inputs)]
            turn += 1
            start = time.perf_counter()
            call(*arguments)
            if round_ >= 2:  # the first rounds warm up
                times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def read(*tensors: Tensor) -> None:
    """Reads every element once, at the speed of torch's own sum."""
    for tensor in tensors:
        tensor.sum()


def interleaved(*calls: Callable[[], object], rounds: int = 7) -> list[float]:
    """Median seconds of each call on inputs of its own, the calls taking turns."""
    found = medians({str(i): call for i, call in enumerate(calls)}, [()], rounds)
    return list(found.values())


def seconds_to_copy(size: int, rounds: int = 20) -> float:
    """The best time of one contiguous copy of `size` bytes, between buffers that rotate."""
    pieces = 2 + int(CACHE_BYTES // size)
    source, target = (torch.ones(pieces, size, dtype=torch.uint8) for _ in range(2))
    best = float("inf")
    for turn in range(rounds):
        before = time.perf_counter()
        target[turn % pieces].copy_(source[turn % pieces])
        best = min(best, time.perf_counter() - before)
    return best


def note_ratio(benchmark: Any, size: int) -> None:
    """Adds the bytes moved and the time as a multiple of a plain copy's (best of both)."""
    benchmark.extra_info["MB moved"] = round(size / 1e6, 2)
    if benchmark.stats is not None:
        ratio = benchmark.stats.stats.min / seconds_to_copy(size)
        benchmark.extra_info["time / copy"] = round(ratio, 2)
