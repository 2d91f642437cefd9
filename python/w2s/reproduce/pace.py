"""How long a run takes: said before it starts, and what is left while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from w2s.reproduce.experiment import NEW_TOKENS, Batch, Experiment, Run
from w2s.reproduce.store import Key, Record

# Tokens a calibration writes: past the first selection of chunks of 5.
PROBE_TOKENS = 7


class Pace:
    """Seconds a row and token for each shape of run: calibrated, then as observed.

    A batch's cost is taken to grow with its rows and tokens, which is nearly so at equal batches.
    """

    def __init__(self) -> None:
        self._calibrated: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._tokens: dict[str, int] = {}

    def observe(self, batch: Batch, seconds: float) -> None:
        """Takes note of a finished batch."""
        shape = batch.run.shape
        self._seconds[shape] = self._seconds.get(shape, 0.0) + seconds
        self._tokens[shape] = self._tokens.get(shape, 0) + batch.tokens

    def calibrate(self, batch: Batch, seconds: float) -> None:
        """Takes note of a short search with the batch's openings and `PROBE_TOKENS` tokens."""
        self._calibrated[batch.run.shape] = seconds * NEW_TOKENS / PROBE_TOKENS / batch.tokens

    def knows(self, run: Run) -> bool:
        return run.shape in self._seconds or run.shape in self._calibrated

    def seconds(self, batch: Batch) -> float:
        """What the batch is expected to take; nan for a shape not met yet."""
        shape = batch.run.shape
        if shape in self._seconds:
            return batch.tokens * self._seconds[shape] / self._tokens[shape]
        return batch.tokens * self._calibrated.get(shape, math.nan)


def paced(
    experiment: Experiment,
    done: Mapping[Key, Record],
    probe: Callable[[Batch], float],
) -> Pace:
    """The pace of what is left to do.

    probe: searches a batch with `PROBE_TOKENS` tokens and gives the seconds; called once for each
    shape that is left and that no finished batch tells of.
    """
    pace = Pace()
    batches = list(experiment.batches())
    for batch in batches:
        if batch.key in done:
            pace.observe(batch, done[batch.key]["seconds"])
    for batch in batches:
        if batch.key not in done and not pace.knows(batch.run):
            pace.calibrate(batch, probe(batch))
    return pace


def announcement(left: Sequence[Batch], pace: Pace) -> str:
    """The whole time and each run's, longest first, such as "about 47 min: CBS 4,4,5 9 min, …"."""
    parts: dict[str, float] = {}
    for batch in left:
        parts[batch.run.name] = parts.get(batch.run.name, 0.0) + pace.seconds(batch)
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    named = ", ".join(f"{name} {duration(seconds)}" for name, seconds in ordered)
    return f"about {duration(sum(parts.values()))}: {named}"


def seconds_left(left: Iterable[Batch], pace: Pace) -> float:
    """Of all batches not done yet."""
    return sum(pace.seconds(batch) for batch in left)


def duration(seconds: float) -> str:
    """Such as 40 s, 9 min or 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
