"""`w2s demo` (`make demo`): the embedded pair steers SmolLM2 on openings of unseen reviews."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from w2s.cli.errors import BadInput, one_sentence
from w2s.cli.plans import Method, build_plan
from w2s.reproduce.measures import vader

if TYPE_CHECKING:
    from rich.console import Console

    from w2s.results import SearchResult

EXAMPLE = "Example: w2s demo --prompts 4"


@dataclass(frozen=True)
class Text:
    """A continuation, the pair's score of it, and the judge's compound sentiment in [-1, 1]."""

    text: str
    score: float
    compound: float


@dataclass(frozen=True)
class Comparison:
    """One opening: base samples (best score first) and what the search returned."""

    opening: str
    base: tuple[Text, ...]
    guided: Text

    @property
    def shown(self) -> Text:
        """The base sample in the middle by score: neither the best nor the worst one."""
        return self.base[len(self.base) // 2]

    @property
    def score(self) -> float:
        """Mean score of the base samples."""
        return statistics.fmean(sample.score for sample in self.base)

    @property
    def compound(self) -> float:
        """Mean compound of the base samples."""
        return statistics.fmean(sample.compound for sample in self.base)


def command(
    prompts: int = typer.Option(24, min=1, help="How many held-out openings of 8 tokens."),
    samples: int = typer.Option(8, min=1, help="Base samples an opening; their mean is compared."),
    max_new_tokens: int = typer.Option(48, min=1, help="Length of a continuation in tokens."),
    seed: int = typer.Option(0, help="The same seed gives the same texts on the same machine."),
) -> None:
    """Continue held-out review openings with and without the pair, side by side.

    The large model writes alone (samples) and under weak-to-strong search (width 4, samples 4,
    chunk 5). VADER, a word list that no model here was trained on, judges the sentiment of both.
    """
    from rich.console import Console

    note = Console(stderr=True).print
    begin = time.perf_counter()
    comparisons = _run(prompts, samples, max_new_tokens, seed, note)
    console = Console(width=None if sys.stdout.isatty() else 120)
    show(comparisons, console)
    note(f"{time.perf_counter() - begin:.0f} s in all")
    console.print(last_line(comparisons), soft_wrap=True, highlight=False)


def _run(
    prompts: int, samples: int, max_new_tokens: int, seed: int, note: Callable[[str], None]
) -> list[Comparison]:
    from w2s import embedded
    from w2s.cli.models import load_models
    from w2s.embedded.demo_package import MissingDemoError

    shared = {"max_new_tokens": max_new_tokens, "top_k": 50, "seed": seed}
    plans = {
        "base": build_plan(Method.bon, {"samples": samples}, **shared),
        "guided": build_plan(Method.cbs, {}, **shared),
    }
    try:
        judge = vader()
        models = load_models(None, None)
        openings = embedded.openings(models.large.tokenizer, prompts)
    except (MissingDemoError, ValueError) as error:
        raise BadInput(one_sentence(error)) from error
    found = {}
    for name, plan in plans.items():
        start = time.perf_counter()
        found[name] = models.search(openings, plan)
        rows = f"{prompts} openings × {plan.pool}"
        note(f"{name}: {rows} rows of {max_new_tokens} tokens, {time.perf_counter() - start:.0f} s")
    return compare(openings, found["base"], found["guided"], judge)


def compare(
    openings: Sequence[str],
    base: Sequence[SearchResult],
    guided: Sequence[SearchResult],
    judge: Callable[[str], float],
) -> list[Comparison]:
    """Puts base samples (all candidates of a best-of-N) and search results side by side."""
    return [
        Comparison(
            opening,
            tuple(Text(c.text, c.score, judge(c.text)) for c in samples.candidates),
            Text(result.best.text, result.best.score, judge(result.best.text)),
        )
        for opening, samples, result in zip(openings, base, guided, strict=True)
    ]


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """Prints the table: opening, base and guided text, the figures under each."""
    from rich.table import Table
    from rich.text import Text as Plain

    count = len(comparisons[0].base)
    table = Table(show_lines=True, title="Held-out review openings, continued")
    table.add_column("opening", ratio=2)
    table.add_column(
        f"base (the middle one of {count} by score; figures: mean of {count})", ratio=5
    )
    table.add_column("guided", ratio=5)
    for row in comparisons:
        left = f"{_flat(row.shown.text)}\n{_figures(row.score, row.compound)}"
        right = f"{_flat(row.guided.text)}\n{_figures(row.guided.score, row.guided.compound)}"
        # Plain text: brackets in a review are no markup.
        table.add_row(Plain(_flat(row.opening)), Plain(left), Plain(right))
    console.print(table)


def _figures(score: float, compound: float) -> str:
    return f"score {score:+.1f}  VADER {compound:+.2f}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def last_line(comparisons: Sequence[Comparison]) -> str:
    """How often guided text beat the base's mean, by the judge and by the pair's own score."""
    total = len(comparisons)
    judged = sum(row.guided.compound > row.compound for row in comparisons)
    scored = sum(row.guided.score > row.score for row in comparisons)
    base = statistics.fmean(row.compound for row in comparisons)
    guided = statistics.fmean(row.guided.compound for row in comparisons)
    samples = len(comparisons[0].base)
    return (
        f"Guided text beat the base (mean of {samples} samples) on {judged} of {total} openings by "
        f"VADER, an independent word list (mean {guided:+.2f} against {base:+.2f}), and on "
        f"{scored} of {total} by the pair's own score."
    )
