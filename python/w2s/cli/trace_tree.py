"""Draws a prompt's trace as a tree of lines.

A hypothesis goes straight down: under its line stands, at the same indentation, the child that
lived longest (on the winner's path: the winner's ancestor). Other children that were kept are
branches of their own, indented. So the depth grows with the forks off the main line and not with
the rounds, and hundreds of rounds fit a narrow terminal. The round stands in a column before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from w2s.cli.trace_rounds import Fate, Node, Round
from w2s.cli.trace_text import shown, visible

# Narrower texts are not worth reading; the terminal may break the line itself.
_NARROWEST = 16
# Rounds of so few tokens are drawn several to a line where nothing forks.
_SHORT_CHUNK = 2
# Losers of a search in one round (best-of-N) that get a line of their own.
_LISTED = 16
_HEAVY, _LIGHT, _ASCII = "┏┣┗╺┃", "╭├╰╶│", "+|+-|"
_ON = (Fate.kept, Fate.filler)


@dataclass(frozen=True)
class _Step:
    """Nodes of successive rounds on one line, from round `first`; most often there is only one."""

    nodes: tuple[Node, ...]
    first: int

    @property
    def last(self) -> int:
        return self.first + len(self.nodes) - 1


class Tree:
    """The lines of one prompt's rounds for a console.

    width: columns. everything: show every candidate with its text, not only those that were kept.
    """

    def __init__(
        self,
        rounds: Sequence[Round],
        plan: Mapping[str, Any],
        console: Console,
        *,
        width: int,
        everything: bool = False,
    ) -> None:
        self._rounds, self._console, self._all = rounds, console, everything
        self._width = width
        self._wide = width >= 60
        self._merge = not everything and (plan.get("chunk") or math.inf) <= _SHORT_CHUNK
        self._plain = console.options.ascii_only
        self._alive = _survival(rounds)

    def lines(self) -> Iterator[Text]:
        """Head, then the tree; nothing for a prompt without rounds."""
        if not self._rounds:
            return
        gain = f"{'gain':>9}" if self._wide else ""
        yield Text(f"{'round':>5}{'score':>9}{gain}  text gained", style="bold dim")
        yield from self._continuations(None, 0, "")

    def _continuations(self, row: int | None, number: int, prefix: str) -> Iterator[Text]:
        """What follows `row` of the round before `number`: all of a tree when row is None."""
        main, others = self._fork(row, number)
        if row is None:
            yield from self._losers(row, number, prefix)
        for other in others:
            yield from self._chain(other, number, prefix)
        if main is not None:
            yield from self._chain(main, number, prefix)

    def _fork(self, row: int | None, number: int) -> tuple[Node | None, list[Node]]:
        """The child that goes on longest, and the other ones that were kept."""
        kept = [node for node in self._children(row, number) if node.fate in _ON]
        if not kept:
            return None, []
        main = max(kept, key=lambda node: (node.on_path, self._alive[number][node.row]))
        return main, [node for node in kept if node is not main]

    def _children(self, row: int | None, number: int) -> list[Node]:
        return self._rounds[number].children(row) if number < len(self._rounds) else []

    def _chain(self, start: Node, number: int, prefix: str) -> Iterator[Text]:
        """A hypothesis from its first line to its last, with what branches off."""
        steps = self._steps(start, number)
        rails = _ASCII if self._plain else _HEAVY if start.on_path else _LIGHT
        for at, step in enumerate(steps):
            last = at == len(steps) - 1
            rail = rails[3 if last and at == 0 else 0 if at == 0 else 2 if last else 1]
            below = prefix + ("  " if last else rails[4] + " ")
            yield from self._line(step, prefix + rail + " ", below)
            node, after = step.nodes[-1], step.last + 1
            if self._carried(node, after) is not None:
                continue
            yield from self._losers(node.row, after, below)
            for other in self._fork(node.row, after)[1]:
                yield from self._chain(other, after, below)

    def _steps(self, start: Node, number: int) -> list[_Step]:
        steps: list[_Step] = []
        node: Node | None = start
        while node is not None:
            main = self._fork(node.row, number + 1)[0]
            before = steps[-1] if steps else None
            alone = before is not None and not self._fork(before.nodes[-1].row, before.last + 1)[1]
            if self._merge and before is not None and alone:
                steps[-1] = _Step((*before.nodes, node), before.first)
            else:
                steps.append(_Step((node,), number))
            if self._carried(node, number + 1) is not None:
                break
            node, number = main, number + 1
        return steps

    def _carried(self, node: Node, number: int) -> str | None:
        """What became of a finished hypothesis, of which all later rounds only hold copies."""
        if not node.finished or self._all:
            return None
        row: int | None = node.row
        for later in range(number, len(self._rounds)):
            copies = self._rounds[later].children(row)
            row = next((copy.row for copy in copies if copy.fate in _ON), None)
            if row is None:
                return f"dropped in round {later + 1}"
        return "kept to the end"

    def _line(self, step: _Step, lead: str, below: str) -> Iterator[Text]:
        node = step.nodes[-1]
        style = "bold green" if node.on_path else ""
        body = Text(visible("".join(one.gained for one in step.nodes)), style=style)
        if not body.plain:  # a special token, half a character, or a copy that gains nothing
            body.append("(no text)" if node.new_tokens else "(nothing new)", style="dim")
        if node.finished and any(one.ended for one in step.nodes):
            body.append(" ✓ finished", style="cyan")
        if node.fate is Fate.filler:
            body.append(" fills a place, not valid", style="yellow")
        fate = self._carried(node, step.last + 1)
        if fate is not None and step.last + 1 < len(self._rounds):
            body.append(f", {fate}", style="dim")
        elif not self._all:
            body.append(self._count(step), style="dim")
        if self._is_winner(node, step.last):
            body.append(" ★ the winner", style="bold yellow")
        gain = math.fsum(one.gain for one in step.nodes)
        span = (
            f"{step.first + 1}" if step.first == step.last else f"{step.first + 1}–{step.last + 1}"
        )
        yield from self._wrapped(span, node.score, gain, lead, below, body, style)

    def _is_winner(self, node: Node, number: int) -> bool:
        if not node.on_path:
            return False
        return number == len(self._rounds) - 1 or self._carried(node, number + 1) is not None

    def _wrapped(
        self, span: str, score: float, gain: float, lead: str, below: str, body: Text, style: str
    ) -> Iterator[Text]:
        figures = Text(f"{span:>5}{shown(score):>9}", style=style)
        if self._wide:
            figures.append(f"{shown(gain):>9}", style="green" if gain > 0 else "red")
        figures.append("  ")
        room = max(_NARROWEST, self._width - len(figures) - len(lead))
        for number, line in enumerate(body.wrap(self._console, room, overflow="fold")):
            line.rstrip()
            head = figures if number == 0 else Text(" " * len(figures))
            yield Text.assemble(head, (lead if number == 0 else below, style or "dim"), line)

    def _count(self, step: _Step) -> str:
        """How many continuations were not kept, and the best of their scores."""
        lost: list[float] = []
        total = 0
        for at, node in enumerate(step.nodes):
            children = self._children(node.row, step.first + at + 1)
            total += len(children)
            lost += [child.score for child in children if child.fate not in _ON]
        if not lost:
            return ""
        share = "all " if len(lost) == total else ""
        finite = [score for score in lost if not math.isnan(score)]
        best = f" ≤ {shown(max(finite))}" if finite else ""
        return f" · {share}{len(lost)} dropped{best}"

    def _losers(self, row: int | None, number: int, prefix: str) -> Iterator[Text]:
        """Who was not kept: a line each with `everything`, else where one round is all there is."""
        lost = [node for node in self._children(row, number) if node.fate not in _ON]
        one_round = len(self._rounds) == 1
        if not lost or not (self._all or row is None):
            return
        listed = lost if self._all else lost[:_LISTED] if one_round else []
        for node in listed:
            body = Text(visible(node.gained) or "(no text)", style="dim")
            if node.fate is not Fate.dropped:
                body.append(f" {node.fate.value}", style="yellow dim")
            lines = list(
                self._wrapped(
                    str(number + 1),
                    node.score,
                    node.gain,
                    prefix + "· ",
                    prefix + "  ",
                    body,
                    "dim",
                )
            )
            if not self._all and len(lines) > 1:
                lines[0].append("…", style="dim")
            yield from lines if self._all else lines[:1]
        rest = lost[len(listed) :]
        if rest:
            best = max((n.score for n in rest if not math.isnan(n.score)), default=math.nan)
            note = f"· {len(rest)} {'more ' if listed else ''}dropped ≤ {shown(best)}"
            figures = 25 if self._wide else 16
            yield Text(f"{number + 1:>5}".ljust(figures) + prefix + note, style="dim")


def _survival(rounds: Sequence[Round]) -> list[list[int]]:
    """For each round and row, the last round that a kept descendant of it lived to."""
    alive = [[number if n.fate in _ON else -1 for n in r.nodes] for number, r in enumerate(rounds)]
    for number in range(len(rounds) - 1, 0, -1):
        for node in rounds[number].nodes:
            if node.parent is not None and alive[number][node.row] >= 0:
                above = alive[number - 1]
                above[node.parent] = max(above[node.parent], alive[number][node.row])
    return alive
