"""Where a search's seconds go: a clock whose parts add up to the whole."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch

REST = "rest"
UNCOUNTED = "uncounted"  # what only the comparison needs: left out of the total


class PartClock:
    """Seconds by part. A part inside another one is taken out of the outer one's time.

    On a CUDA device the marks are events on the current stream, so that measuring makes nothing
    wait; the seconds are the stream's, with its idle gaps.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.start()

    def start(self) -> None:
        """Forgets what was measured; from here on time counts as `rest`."""
        self._open = [REST]
        self._marks: list[tuple[Any, str]] = []
        if self._cuda:
            torch.cuda.synchronize()
        self._mark()

    def _mark(self) -> None:
        if self._cuda:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((now, self._open[-1]))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside the block belongs to `name`."""
        self._mark()
        self._open.append(name)
        try:
            yield
        finally:
            self._mark()
            self._open.pop()

    def stop(self) -> dict[str, float]:
        """Seconds of each part since `start`; those of `UNCOUNTED` are dropped."""
        self._mark()
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (before, _), (after, owner) in zip(self._marks, self._marks[1:], strict=False):
            gap = before.elapsed_time(after) / 1e3 if self._cuda else after - before
            seconds[owner] = seconds.get(owner, 0.0) + gap
        seconds.pop(UNCOUNTED, None)
        return seconds

    def timed(self, owner: Any, name: str, part: str) -> Any:
        """A patch: calls of `owner.name` count as `part` while it is entered."""
        call: Callable[..., Any] = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return call(*args, **kwargs)

        return patch.object(owner, name, measured)
