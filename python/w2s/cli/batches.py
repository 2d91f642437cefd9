"""Searches the prompts batch by batch; what a batch has found is on the disk before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from w2s.cli.errors import BadInput, one_sentence
from w2s.errors import W2SError

if TYPE_CHECKING:
    from w2s.cli.layouts import Layout
    from w2s.cli.models import Models
    from w2s.cli.results_file import ResultsFile
    from w2s.cli.rows import Row
    from w2s.cli.trace_file import TraceFile
    from w2s.plan import SearchPlan
    from w2s.results import ChunkTrace

    OnChunk = Callable[[ChunkTrace], object]

AUTO = "auto"


def check_batch(batch: str) -> None:
    """Raises `BadInput` unless --batch is auto or a whole number >= 1."""
    if batch != AUTO and not (batch.isdecimal() and int(batch) >= 1):
        raise BadInput(f"--batch is {batch}; it must be auto or a whole number >= 1")


def prompts_at_once(batch: str, plan: SearchPlan, models: Models, rows: list[Row]) -> int:
    """How many prompts are searched at once: as given, or as many as make 256 rows and fit.

    Raises:
        BadInput: so many, or a single one, do not fit into the free memory.
    """
    from w2s.batching import Names, choose_batch

    try:
        chosen = choose_batch(
            plan,
            models.all,
            [row.prompt for row in rows],
            batch if batch == AUTO else int(batch),
            guided=models.beta is not None,
            judged=models.ranks,
            names=Names("--batch", "--samples, --width, --max-new-tokens or --dtype"),
        )
    except W2SError as error:
        raise BadInput(one_sentence(error)) from error
    if chosen.note is not None:
        typer.echo(f"w2s: {chosen.note}", err=True)
    return chosen.prompts


def spans(done: int, total: int, at_once: int) -> Iterator[tuple[int, int]]:
    """The batches that are left, as (first, end): the very ones of an uninterrupted run.

    The first of them begins before `done` where a batch was torn while it was written: a model's
    last bits depend on what it reads at once, so the batch is searched as it was.
    """
    if done == total:
        return
    for first in range(done // at_once * at_once, total, at_once):
        yield first, min(first + at_once, total)


def both(*listeners: OnChunk) -> OnChunk:
    """One listener that hands every round on to all of these."""

    def tell(trace: ChunkTrace) -> None:
        for listener in listeners:
            listener(trace)

    return tell


def search_rows(
    models: Models,
    plan: SearchPlan,
    rows: list[Row],
    at_once: int,
    results: ResultsFile,
    layout: Layout,
    trace: TraceFile | None = None,
) -> None:
    """Searches for every row that `results` does not have yet, and writes what is found."""
    from w2s.cli.progress import search_progress

    before = results.rows
    with search_progress(len(rows), plan.max_new_tokens, done=before) as progress:
        for first, end in spans(before, len(rows), at_once):
            part = rows[first:end]
            prompts = [row.prompt for row in part]
            on_chunk: OnChunk = progress.on_chunk
            if trace is not None:
                trace.start(first, prompts, models.large.decode)
                on_chunk = both(progress.on_chunk, trace.on_chunk)
            found = models.search(prompts, plan, on_chunk, first)
            if trace is not None:
                trace.finish(found)
            lines = [layout.row(row, one) for row, one in zip(part, found, strict=True)]
            missing = lines[results.rows - first :]
            results.write(missing)
            progress.finish_batch(len(missing))
    typer.echo(
        f"{len(rows) - before} prompts{f' after {before} earlier ones' if before else ''}, "
        f"{progress.tokens} tokens written in {progress.seconds:.1f} s "
        f"({progress.speed:.0f} tokens/s)",
        err=True,
    )
