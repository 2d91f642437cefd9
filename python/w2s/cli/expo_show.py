"""What `w2s expo` prints: findings and the plan before a run, the layers and the advice after."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from w2s.expo.report import Report
    from w2s.expo.survey import Survey
    from w2s.preflight.finding import Finding

# Lines before a run, so that an error that follows is still seen.
_MOST_SAID = 3


def say_findings(findings: Sequence[Finding], everything: bool) -> None:
    """Warnings and notes on standard error, the first few unless `everything` is wanted."""
    said = [finding for finding in findings if finding.level != "error"]
    shown = said if everything or len(said) <= _MOST_SAID else said[: _MOST_SAID - 1]
    for finding in shown:
        typer.echo(f"w2s: {finding.level}: {finding.sentence}", err=True)
    if len(shown) < len(said):
        typer.echo(f"w2s: and {len(said) - len(shown)} more, with -v or w2s expo check", err=True)


def plan_lines(survey: Survey) -> Iterator[str]:
    """What was looked at, and what a run reads, writes and holds in memory."""
    from w2s.sizes import size

    for line in survey.looked_at:
        yield f"looked at {line}"
    if not survey.tasks:
        return
    moved = [task for task in survey.tasks if task.base is not None]
    others = ", the others copied" if len(moved) < len(survey.tasks) else ""
    yield (
        f"{len(moved)} of {len(survey.tasks)} tensors are extrapolated{others}; the largest has "
        f"{size(survey.largest_tensor)}"
    )
    files = "1 file" if len(survey.shards) == 1 else f"{len(survey.shards)} files"
    yield (
        f"a run reads {size(survey.bytes_read)} and writes {size(survey.bytes_written)} in "
        f"{files}, with {size(_buffers())} of buffers"
    )


def _buffers() -> int:
    from w2s.expo.pieces import PIECE, SLOTS

    return 3 * SLOTS * PIECE  # θ₁'s piece, θ₀'s and the result's, in each slot


def plan_of(survey: Survey) -> Iterator[str]:
    """A line for each tensor: its name, shape and dtype, and what is done with it."""
    for task in survey.tasks:
        does = f"copied ({task.why})" if task.base is None else f"α {task.alpha:g}"
        if task.base is not None and task.why:
            does += f" ({task.why})"
        shape = "×".join(map(str, task.aligned.shape)) or "scalar"
        yield f"{task.aligned.name}  {shape} {task.aligned.code} → {task.out_code}  {does}"


def show_report(report: Report, out: Path, seconds: float, streaming: float) -> None:
    """The table of layers, the advice, and where the result is.

    seconds: of the whole run. streaming: of them, those in which weights were read and written.
    """
    from rich.console import Console
    from rich.table import Table

    from w2s.expo.report import COLUMNS
    from w2s.sizes import size

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    rows = report.table()
    if rows:
        table = Table()
        for number, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if number == 0 else "right")
        for number, row in enumerate(rows, start=1):
            table.add_row(*row, end_section=number == len(rows) - 1)
        console.print(table)
    for sentence in report.advice():
        console.print(sentence, markup=False, soft_wrap=True)
    survey = report.survey
    rate = (survey.bytes_read + survey.bytes_written) / 1e6 / max(streaming, 1e-9)
    files = "1 file" if len(survey.shards) == 1 else f"{len(survey.shards)} files"
    console.print(
        f"{out}: {size(survey.bytes_written)} in {files}, {seconds:.1f} s, of which "
        f"{streaming:.1f} s reading and writing at {rate:.0f} MB/s",
        markup=False, soft_wrap=True,
    )  # fmt: skip
