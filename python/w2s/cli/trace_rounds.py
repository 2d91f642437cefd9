"""From a prompt's lines to rounds of candidates that know where they came from and what became of
them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from w2s.cli.trace_reader import PromptTrace


class Fate(StrEnum):
    """What the selection at the end of a round did with a candidate.

    filler: kept only to fill a place, never returned. clone: a copy of a finished candidate that
    already holds a place. unscored: its score is NaN.
    """

    kept = "kept"
    filler = "filler"
    dropped = "dropped"
    clone = "clone"
    unscored = "unscored"


@dataclass(frozen=True)
class Node:
    """One candidate at the end of a round.

    row: its place in the pool. parent: its row in the round before, None in the first round.
    gained, text: what this round added, and the whole response so far. tokens: of the response.
    score: running, NaN where it has none. gain: score less the parent's. ended: in this round.
    on_path: the winner, or one of its ancestors.
    """

    row: int
    parent: int | None
    gained: str
    text: str
    tokens: int
    new_tokens: int
    score: float
    gain: float
    finished: bool
    ended: bool
    fate: Fate
    on_path: bool = False


@dataclass(frozen=True)
class Round:
    """A round of one prompt: `nodes[row]`, and the rows in the order of their scores."""

    number: int
    written: int
    seconds: float
    nodes: tuple[Node, ...]
    ranked: tuple[int, ...]

    def children(self, row: int | None) -> list[Node]:
        """Who continues `row` of the round before (None: the prompt itself), best first."""
        return [self.nodes[r] for r in self.ranked if self.nodes[r].parent == row]


def _score(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def rounds_of(prompt: PromptTrace, plan: Mapping[str, Any]) -> list[Round]:
    """The prompt's rounds, each candidate with its text, its fate and whether it led to the winner.

    A search that did not end has no winner and no path.
    """
    rounds: list[Round] = []
    # Finished candidates bear the (round, row) they ended in; who bears the same are clones.
    origin: list[tuple[int, int] | None] = []
    for number, chunk in enumerate(prompt.chunks):
        before = rounds[-1].nodes if rounds else None
        parents = prompt.chunks[number - 1]["parents"] if number else []
        nodes: list[Node] = []
        ended: list[tuple[int, int] | None] = []
        for row, finished in enumerate(chunk["finished"]):
            parent = None if before is None else before[parents[row]]
            inherited = None if parent is None else origin[parent.row]
            ended.append((inherited or (number, row)) if finished else None)
            nodes.append(_node(row, parent, chunk, finished and inherited is None))
        origin = ended
        ranked = sorted(range(len(nodes)), key=lambda r: (_descending(nodes[r].score), r))
        fates = _fates(chunk, plan, nodes, ranked, origin)
        rounds.append(
            Round(
                number=number,
                written=chunk["written"],
                seconds=float(chunk.get("seconds", 0.0)),
                nodes=tuple(replace(n, fate=f) for n, f in zip(nodes, fates, strict=True)),
                ranked=tuple(ranked),
            )
        )
    return _mark_path(rounds, None if prompt.result is None else prompt.result["row"])


def _node(row: int, parent: Node | None, chunk: Mapping[str, Any], ended: bool) -> Node:
    gained, ids = chunk["texts"][row], chunk["tokens"][row]
    score = _score(chunk["scores"][row])
    text = ("" if parent is None else parent.text) + gained
    return Node(
        row=row,
        parent=None if parent is None else parent.row,
        gained=gained,
        text=chunk.get("rewrites", {}).get(str(row), text),
        tokens=len(ids) + (0 if parent is None else parent.tokens),
        new_tokens=len(ids),
        score=score,
        gain=score if parent is None else score - parent.score,
        finished=chunk["finished"][row],
        ended=ended,
        fate=Fate.dropped,
    )


def _descending(score: float) -> float:
    return math.inf if math.isnan(score) else -score


def _fates(
    chunk: Mapping[str, Any],
    plan: Mapping[str, Any],
    nodes: Sequence[Node],
    ranked: Sequence[int],
    origin: Sequence[tuple[int, int] | None],
) -> list[Fate]:
    fates = [Fate.dropped] * len(nodes)
    seen: set[tuple[int, int]] = set()
    counted = []
    for row in ranked:
        number = origin[row]
        if math.isnan(nodes[row].score):
            fates[row] = Fate.unscored
        elif number is not None and number in seen and not plan.get("clones", False):
            fates[row] = Fate.clone
        else:
            counted.append(row)
        if number is not None:
            seen.add(number)
    # A frozen prompt's rows stay where they are: `parents` says nothing of who was kept.
    kept = counted if chunk["frozen"] else chunk["parents"][:: plan["samples"]]
    for row, counts in zip(kept, chunk["valid"], strict=False):
        fates[row] = Fate.kept if counts else Fate.filler
    return fates


def _mark_path(rounds: Sequence[Round], winner: int | None) -> list[Round]:
    marked: list[Round] = []
    row = winner
    for one in reversed(rounds):
        nodes = list(one.nodes)
        if row is not None:
            nodes[row] = replace(nodes[row], on_path=True)
            row = nodes[row].parent
        marked.append(replace(one, nodes=tuple(nodes)))
    return marked[::-1]
