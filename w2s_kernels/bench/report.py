"""Measured figures for people, for spreadsheets and for later runs."""

import csv
import io
import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..info import collect
from .measure import Result, Row

_COLUMNS = ("provider", "µs", "25–75 %", "GB/s", "of reading", "of the floor", "hot µs", "error")


def stamp() -> dict[str, Any]:
    """Hardware, versions, threads, time and commit: what a figure is worth nothing without."""
    found = collect()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "cpu": found["cpu"],
        "cuda": found["cuda"]["devices"],
        "isa": found["library"]["isa"],
        "threads": found["library"]["threads"],
        "versions": found["versions"],
    }


def _commit() -> str | None:
    """The checkout's commit, marked when what is measured differs from it; None outside of one.

    Result files may differ: a run of several benchmarks writes them as it goes.
    """
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)bench/results"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def headline(result: Result) -> str:
    """One line that says what was measured and what the machine can do."""
    floor = f"reads at least {result.least_bytes / 1e6:.2f} MB"
    if result.exps:
        floor += f", takes {result.exps / 1e6:.2f} M exponentials"
    if result.flops:
        floor += f", {result.flops / 1e9:.2f} Gflop"
    dim = f" D={result.size.dim}" if result.flops else ""
    return (
        f"{result.op} {result.size}{dim} on {result.size.device}: {floor}. This machine reads "
        f"{result.read / 1e9:.1f} GB/s and takes {result.exp / 1e9:.2f} G exponentials/s in its "
        f"first cache: floor {result.floor * 1e6:.0f} µs"
    )


def cells(result: Result, row: Row) -> list[str]:
    """A provider's figures as text, in the order of `_COLUMNS`."""
    if row.cold is None or row.hot is None:
        return [row.provider, row.absent or "", "", "", "", "", "", ""]
    cold = row.cold
    rate = result.least_bytes / cold.median
    error = "" if row.error is None else f"{row.error:.1e} ({row.ratio:.2g} × allowed)"
    return [
        row.provider,
        f"{cold.median * 1e6:.0f}",
        f"{cold.lower * 1e6:.0f}–{cold.upper * 1e6:.0f}",
        f"{rate / 1e9:.1f}",
        f"{rate / result.read:.0%}",
        f"{result.floor / cold.median:.0%}",
        f"{row.hot.median * 1e6:.0f}",
        error + ("" if row.right else " WRONG"),
    ]


def text(result: Result) -> str:
    """A table for the terminal."""
    present = [row for row in result.rows if row.absent is None]
    table = [list(_COLUMNS), *(cells(result, row) for row in present)]
    widths = [max(len(line[i]) for line in table) for i in range(len(_COLUMNS))]
    lines = [headline(result)]
    for line in table:
        padded = [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *padded]).rstrip())
    lines += [f"{row.provider}: absent, {row.absent}" for row in result.rows if row.absent]
    return "\n".join(lines)


def markdown(result: Result) -> str:
    """The same as a Markdown table."""
    lines = [headline(result), "", "| " + " | ".join(_COLUMNS) + " |"]
    lines.append("| --- |" + " ---: |" * (len(_COLUMNS) - 1))
    lines += [
        "| " + " | ".join(cells(result, row)) + " |" for row in result.rows if row.absent is None
    ]
    return "\n".join(lines)


def as_csv(results: Sequence[Result]) -> str:
    """One line a provider: seconds, rates and errors as plain numbers."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["op", "rows", "vocab", "dim", "dtype", "device", "provider", "cold_s", "cold_least_s",
         "hot_s", "bytes", "read_bytes_per_s", "exps_per_s", "floor_s", "error", "error_ratio",
         "absent"]
    )  # fmt: skip
    for result in results:
        size = result.size
        for row in result.rows:
            cold, hot = row.cold, row.hot
            writer.writerow(
                [result.op, size.rows, size.vocab, size.dim, str(size.dtype), size.device,
                 row.provider, cold and cold.median, cold and cold.least, hot and hot.median,
                 result.least_bytes, result.read, result.exp, result.floor, row.error, row.ratio,
                 row.absent]
            )  # fmt: skip
    return out.getvalue()


def as_json(results: Sequence[Result]) -> str:
    """Everything measured, with the stamp."""
    data = {"stamp": stamp(), "results": [result.as_dict() for result in results]}
    return json.dumps(data, indent=1, default=str)
