"""How one result is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from w2s.cli.rows import Row
    from w2s.results import SearchResult


_POOL = "candidates"


@dataclass(frozen=True)
class Layout:
    """The fields that a search adds to an input row (`added`), and how they are made (`fields`)."""

    added: frozenset[str]
    fields: Callable[[SearchResult], dict[str, object]]
    as_list: bool  # the complete file is one JSON list

    def row(self, row: Row, found: SearchResult) -> dict[str, object]:
        """The input's own fields, then what the search found."""
        own = {name: value for name, value in row.fields.items() if name not in self.added}
        result = {**own, **self.fields(found)}
        if _POOL in self.added:
            result[_POOL] = [
                {"response": c.text, "score": c.score, "finish_reason": c.finish_reason}
                for c in found.candidates
            ]
        return result


def json_lines(candidates: bool) -> Layout:
    """The row with "response", "score", "finished" and "finish_reason"; the last pool if asked."""
    added = {"response", "score", "finished", "finish_reason"}
    return Layout(
        frozenset(added | {_POOL} if candidates else added),
        lambda found: {
            "response": found.best.text,
            "score": found.best.score,
            "finished": found.best.finished,
            "finish_reason": found.best.finish_reason,
        },
        as_list=False,
    )


def alpaca_eval(generator: str, candidates: bool) -> Layout:
    """What `alpaca_eval --model_outputs` reads: a list of rows with "instruction", "output" and
    "generator", which is one name for all of them."""
    added = {"output", "generator"}
    return Layout(
        frozenset(added | {_POOL} if candidates else added),
        lambda found: {"output": found.best.text, "generator": generator},
        as_list=True,
    )
