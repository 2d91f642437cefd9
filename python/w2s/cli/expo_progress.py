"""What `w2s expo` says while it runs: bytes read and written, how fast, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class ByteProgress:
    """Takes (bytes done, bytes in all). The first call's are an earlier run's, and are no speed.

    seconds: between the first call and the last one.
    """

    progress: Progress
    seconds: float = 0.0
    _task: TaskID | None = None
    _began: float = field(default_factory=time.perf_counter)

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self.progress.add_task("read and written", total=total, completed=done)
            self._began = time.perf_counter()
        self.progress.update(self._task, completed=done, total=total)
        self.seconds = time.perf_counter() - self._began


@contextmanager
def byte_progress() -> Iterator[ByteProgress]:
    """A bar on standard error while that is a terminal; it vanishes when the run is over."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield ByteProgress(progress)
