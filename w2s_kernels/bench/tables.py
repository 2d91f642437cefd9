"""Markdown tables of the pages. Imports without torch."""

from collections.abc import Sequence


def table(head: Sequence[str], left: int, lines: Sequence[Sequence[str]]) -> str:
    """Markdown with the first `left` columns flush left, the others right."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, marks, *lines])
