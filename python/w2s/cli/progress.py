"""What a search says while it runs: a bar, tokens a second, the best score so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from w2s.results import ChunkTrace


@dataclass
class SearchProgress:
    """Counts what has been written; `tokens` are the large model's, over all rows of the pool."""

    progress: Progress
    task: TaskID
    limit: int  # new tokens a prompt, at most
    prompts_done: int = 0
    tokens: int = 0
    best: float = -math.inf
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the search began."""
        return time.perf_counter() - self.began

    @property
    def speed(self) -> float:
        """Tokens a second since the search began."""
        return self.tokens / max(self.seconds, 1e-9)

    def on_chunk(self, trace: ChunkTrace) -> None:
        """Takes a round's trace."""
        self.tokens += trace.new_tokens
        self.best = max([self.best, *trace.best])
        self._show(self.prompts_done * self.limit + len(trace.best) * trace.written)

    def finish_batch(self, prompts: int) -> None:
        """Takes note that so many prompts have their results."""
        self.prompts_done += prompts
        self._show(self.prompts_done * self.limit)

    def _show(self, completed: int) -> None:
        self.progress.update(
            self.task,
            completed=completed,
            done=self.prompts_done,
            speed=self.speed,
            best=f"{self.best:+.2f}" if math.isfinite(self.best) else "–",
        )


@contextmanager
def search_progress(prompts: int, limit: int, done: int = 0) -> Iterator[SearchProgress]:
    """A bar on standard error while that is a terminal; it vanishes when the search is over.

    prompts, done: of the whole input, and those that an earlier run has finished.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[done]}/{task.fields[prompts]} prompts"),
        BarColumn(),
        TextColumn("{task.fields[speed]:.0f} tokens/s"),
        TextColumn("best score {task.fields[best]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(
            "search", total=prompts * limit, completed=done * limit, prompts=prompts, done=done,
            speed=0.0, best="–",
        )  # fmt: skip
        yield SearchProgress(progress, task, limit, prompts_done=done)
