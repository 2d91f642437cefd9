"""How findings are shown: a table with what to do, and a verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from w2s.preflight.finding import Finding

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show(findings: Sequence[Finding], lines: Iterable[str]) -> None:
    """Prints the findings as a table, then `lines`, then how many findings of each level."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if findings:
        console.print(_table(findings))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(verdict(findings), markup=False, soft_wrap=True)


def _table(findings: Sequence[Finding]) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    table.add_column("level", no_wrap=True)
    table.add_column("what", ratio=3)
    table.add_column("what to do", ratio=2)
    for one in findings:
        # Plain text: a template's brackets are no markup.
        level = Text(one.level, style=_STYLES[one.level])
        what = Text.assemble(one.what, "\n", (f"[{one.code}]", "dim"))
        table.add_row(level, what, Text(one.what_to_do))
    return table


def verdict(findings: Sequence[Finding]) -> str:
    """ "1 error, 2 notes", or that there are none."""
    if not findings:
        return "no problems found"
    counts = [
        f"{count} {level if count == 1 else level + 's'}"
        for level in ("error", "warning", "note")
        if (count := sum(finding.level == level for finding in findings))
    ]
    return ", ".join(counts)
