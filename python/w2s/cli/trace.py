"""`w2s trace`: draws what a search kept and dropped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from w2s.cli.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from w2s.cli.trace_reader import PromptTrace, Trace

EXAMPLE = (
    'Example: echo "This film was" | w2s search --max-new-tokens 20 --trace trace.jsonl '
    "&& w2s trace trace.jsonl --html trace.html"
)
# Other prompts that are listed under the tree.
_LISTED = 12
_PIPED_WIDTH = 100


def command(
    source: str = typer.Argument(
        metavar="FILE", help="What w2s search --trace FILE wrote; - is standard input."
    ),
    prompt: int | None = typer.Option(
        None, min=0, help="The prompt's place in the input, from 0.  [default: the first one]"
    ),
    html: str | None = typer.Option(
        None,
        metavar="OUT.html",
        help="Write one self-contained page instead of the tree; - is standard output.",
    ),
    width: int | None = typer.Option(
        None, min=30, metavar="COLUMNS", help="Of the tree.  [default: the terminal's, piped 100]"
    ),
    everything: bool = typer.Option(
        False, "--all", help="Every candidate with its text, not only those that were kept."
    ),
) -> None:
    """Draw a search as a tree, or as a page: what was kept, what was dropped, and why.

    A line is what a hypothesis gained in a round, with its score so far and the gain in score. It
    goes on below at the same indentation; what else was kept of the same text is indented. The
    heavy line leads to the winner.
    """
    from w2s.cli.trace_reader import read_trace

    trace = read_trace(source)
    for note in trace.notes:
        typer.echo(f"note: {trace.name}: {note}", err=True)
    chosen = _chosen(trace, prompt)
    if html is not None:
        from w2s.cli.trace_page import write_page

        prompts = trace.prompts if prompt is None else (chosen,)
        left_out = write_page(html, trace, [one for one in prompts if one is not None])
        if left_out:
            typer.echo(
                f"note: the page would be too large: {counted(left_out)} left out; --prompt N "
                "makes a page of one",
                err=True,
            )
        typer.echo(f"{html}: {counted(len(prompts) - left_out)}", err=True)
        return
    _draw(trace, chosen, width, everything)


def counted(prompts: int) -> str:
    """A number of prompts, in words."""
    return f"{prompts} prompt{'' if prompts == 1 else 's'}"


def _chosen(trace: Trace, place: int | None) -> PromptTrace | None:
    """The prompt at `place`; without one the first, None in a trace that has not begun."""
    if place is None:
        return trace.prompts[0] if trace.prompts else None
    for prompt in trace.prompts:
        if prompt.place == place:
            return prompt
    places = [prompt.place for prompt in trace.prompts]
    has = f"it has {places[0]} to {places[-1]}" if places else "it has none"
    raise BadInput(f"--prompt is {place}; {trace.name} has no such prompt, {has}")


def _draw(trace: Trace, prompt: PromptTrace | None, width: int | None, everything: bool) -> None:
    from rich.console import Console

    columns = width or (None if sys.stdout.isatty() else _PIPED_WIDTH)
    console = Console(width=columns, highlight=False, emoji=False, markup=False)
    if hasattr(sys.stdout, "reconfigure"):  # a text may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    _head(console, trace)
    if prompt is None:
        console.print("no prompt was begun: there is nothing to draw")
        return
    _draw_prompt(console, trace, prompt, everything)
    _others(console, trace, prompt)


def _head(console: Console, trace: Trace) -> None:
    from w2s.cli.trace_text import settings_line

    console.print(settings_line(trace.header), style="bold")
    models = trace.header.get("models")
    if isinstance(models, Mapping):
        named = [f"{role} {name}" for role, name in models.items() if name]
        console.print(" · ".join(named), style="dim")


def _draw_prompt(console: Console, trace: Trace, prompt: PromptTrace, everything: bool) -> None:
    from rich.text import Text

    from w2s.cli.trace_rounds import rounds_of
    from w2s.cli.trace_text import shown, visible
    from w2s.cli.trace_tree import Tree

    rounds = rounds_of(prompt, trace.plan)
    console.print()
    console.print(Text(f"prompt {prompt.place}: ", "dim") + Text(visible(prompt.text), "bold"))
    console.print()
    if not rounds:
        console.print("no round was finished")
    tree = Tree(rounds, trace.plan, console, width=console.width, everything=everything)
    for line in tree.lines():
        console.print(line, soft_wrap=True)
    console.print()
    result = prompt.result
    if result is None:
        console.print("the search of this prompt did not end: there is no winner yet")
    elif result.get("row") is None:
        console.print("no candidate has a score: there is no winner")
    else:
        score = shown(float(result["score"]))
        head = Text(f"★ {score} ({result.get('finish_reason')}) ", "bold yellow")
        console.print(head + Text(visible(str(result.get("text", "")).strip())))


def _others(console: Console, trace: Trace, prompt: PromptTrace) -> None:
    from rich.text import Text

    from w2s.cli.trace_text import shown, visible

    others = [one for one in trace.prompts if one is not prompt]
    if not others:
        return
    console.print()
    console.print(
        f"{len(others)} other {'prompt' if len(others) == 1 else 'prompts'}; --prompt N draws one:",
        style="dim",
    )
    for one in others[:_LISTED]:
        result = one.result or {}
        score = result.get("score")
        figure = "–" if score is None else shown(float(score))
        line = Text(f"{one.place:>5}{figure:>9}  ") + Text(visible(one.text), "dim")
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    if len(others) > _LISTED:
        console.print(f"{'':5} … and {len(others) - _LISTED} more", style="dim")
