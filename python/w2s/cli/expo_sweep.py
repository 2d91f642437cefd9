"""`w2s expo sweep`: which α to take, by a reward on prompts of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli.batches import AUTO, check_batch
from w2s.cli.errors import BadInput, Interrupted, one_sentence
from w2s.cli.rows import read_rows
from w2s.errors import PlanError, PromptError, W2SError
from w2s.prompts import PromptStyle

if TYPE_CHECKING:
    from w2s.expo.sweep.run import Step
    from w2s.expo.sweep.settings import SweepSettings

EXAMPLE = "Example: w2s expo sweep --alphas 0.1,0.3,1 --refine 1 --limit 20 --out sweep"
_ALPHAS, _DRAWS, _MODELS = "Which α", "How responses are drawn", "The models"
_JUDGE, _RUN = "How they are judged", "How to run"
# A sweep that is given no prompts takes held-out reviews. A model that writes itself gets openings
# beyond those of `w2s reproduce sentiment`; a search gets those, so that an α chosen by the former
# is tried on others.
_OPENINGS, _SKIP, _SKIP_STEERED = 100, 248, 48
_GUARD_REVIEWS, _GUARD_SKIP = 40, 1000


def command(
    alphas: str = typer.Option(
        "0.1,0.3,1,3", help="Separated by commas; 0 (the aligned model) is always tried too.",
        rich_help_panel=_ALPHAS,
    ),
    refine: int = typer.Option(
        0, min=0, rich_help_panel=_ALPHAS,
        help="Rounds that add α on a log scale between the best one and its neighbours, and beyond "
        "the grid (0.01 to 30) where the best one is its end.",
    ),
    base: str | None = typer.Option(
        None, help="θ₀: folder or hub id.  [default: the untuned embedded model]",
        rich_help_panel=_MODELS,
    ),
    aligned: str | None = typer.Option(
        None, help="θ₁: folder or hub id.  [default: the tuned embedded model]",
        rich_help_panel=_MODELS,
    ),
    steer: str | None = typer.Option(
        None, metavar="LARGE", rich_help_panel=_MODELS,
        help="Let this model write and θ(α) steer it against θ₀ (search by CBS 4,4,5); 'embedded' "
        "is SmolLM2-135M.",
    ),
    tokenizer: str | None = typer.Option(
        None, help="Folder or hub id, for models that bring no tokenizer.", rich_help_panel=_MODELS
    ),
    dtype: str = typer.Option(
        "auto", help="auto, float32, bfloat16 or float16.", rich_help_panel=_MODELS
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …", rich_help_panel=_MODELS),
    prompts: str | None = typer.Option(
        None, metavar="FILE", rich_help_panel=_DRAWS,
        help='JSONL with "prompt", or a prompt a line.  [default: held-out review openings]',
    ),
    limit: int | None = typer.Option(
        None, min=1, rich_help_panel=_DRAWS,
        help=f"Use the first so many prompts only.  [default: all; {_OPENINGS} review openings]",
    ),
    samples: int = typer.Option(
        1, min=1, help="Responses a prompt (not with --steer).", rich_help_panel=_DRAWS
    ),
    max_new_tokens: int = typer.Option(
        48, min=1, help="Longest response in tokens.", rich_help_panel=_DRAWS
    ),
    temperature: float = typer.Option(0.7, help="0 is greedy.", rich_help_panel=_DRAWS),
    top_k: int = typer.Option(50, help="0 is off.", rich_help_panel=_DRAWS),
    seed: int = typer.Option(
        0, help="With a prompt's place it fixes every draw, the same for every α.",
        rich_help_panel=_DRAWS,
    ),
    template: str | None = typer.Option(
        None, help='How the writing model sees a prompt, such as "Review: {prompt}".',
        rich_help_panel=_DRAWS,
    ),
    chat: bool = typer.Option(
        False, "--chat", help="Send prompts through its chat template.", rich_help_panel=_DRAWS
    ),
    system: str = typer.Option(
        "", help="System message for the chat template.", rich_help_panel=_DRAWS
    ),
    reward: str = typer.Option(
        "sentiment", rich_help_panel=_JUDGE,
        help="sentiment; pair or pair:TUNED,UNTUNED (their log-prob difference, in nats); "
        "hf:MODEL or hf:MODEL#LABEL (a sequence classifier); python:MODULE:FUNCTION (called with "
        "lists of prompts and responses, gives a list of numbers).",
    ),
    guard: str | None = typer.Option(
        None, metavar="FILE", rich_help_panel=_JUDGE,
        help='Held-out text: JSONL with "text", or a text a line; its perplexity is watched.  '
        "[default: none; held-out reviews where no --prompts are given]",
    ),
    guard_limit: float = typer.Option(
        1.1, help="Pass over an α whose guard perplexity is above so many times that of α = 0.",
        rich_help_panel=_JUDGE,
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="For the report, the curve and all responses.",
        rich_help_panel=_RUN,
    ),
    resume: bool = typer.Option(
        False, "--resume", rich_help_panel=_RUN,
        help="Go on in DIR after what an interrupted sweep, or one of other α, has finished.",
    ),
    batch: str = typer.Option(
        AUTO, help="Prompts written for at once.", rich_help_panel=_RUN
    ),
) -> None:  # fmt: skip
    """Try α after α: serve θ₁ + α(θ₁ − θ₀), let it write, score what it wrote.

    No checkpoint is written: one model takes the values of each α in turn, just those that `w2s
    expo` would write in this dtype. All α get the same prompts and seeds, so they are compared
    prompt by prompt with α = 0, the aligned model itself. Recommended is the α with the highest
    lower end of the gain's 95 % interval, among those whose guard perplexity stays within
    --guard-limit; or α = 0, where no interval lies above 0.

    Writes sweep.md, sweep.json, curve.svg and rows.jsonl (every response) into DIR.
    """
    check_batch(batch)
    settings = _settings(
        alphas, refine, guard_limit, steer is not None, samples=samples,
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed,
    )  # fmt: skip
    style = {"template": template, "chat": chat, "system": system}
    try:
        PromptStyle(**style)  # type: ignore[arg-type]
    except PromptError as error:
        raise BadInput(f"--template: {one_sentence(error)}") from error
    if (base is None) != (aligned is None):
        raise BadInput("--base and --aligned go together; give both, or none for the embedded pair")
    given = None if prompts is None else [row.prompt for row in read_rows(prompts)][:limit]
    watched = None if guard is None else _guard_texts(guard)
    try:
        _sweep(
            settings, out, resume,
            names=_names(base, aligned, steer), prompts=given, limit=limit, guard_texts=watched,
            reward=reward, tokenizer=tokenizer, device=device, dtype=dtype,
            batch=batch if batch == AUTO else int(batch), style=style,
        )  # fmt: skip
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(one_sentence(error)) from error
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: what is finished is in {out}; the same command with --resume goes on"
        ) from None


def _settings(
    alphas: str, refine: int, guard_limit: float, searches: bool, *, samples: int, **draws: Any
) -> SweepSettings:
    from w2s.expo.sweep.settings import SweepSettings
    from w2s.plan import SearchPlan

    try:
        numbers = tuple(float(part) for part in alphas.split(",") if part.strip())
    except ValueError as error:
        raise BadInput(f"--alphas is {alphas!r}; it must be numbers separated by commas") from error
    if searches and samples != 1:
        raise BadInput(f"--samples {samples} has no meaning with --steer, which keeps the best one")
    try:
        plan = SearchPlan.cbs(**draws) if searches else SearchPlan.bon(samples, **draws)
        return SweepSettings(numbers, plan, refine, guard_limit)
    except PlanError as error:
        name = "--" + error.field.replace("_", "-")
        raise BadInput(f"{name} is {error.value}; it must be {error.allowed}") from error
    except W2SError as error:
        raise BadInput("--" + one_sentence(error).replace("_", "-", 1)) from error


def _guard_texts(file: str) -> list[str]:
    texts = []
    for row in read_rows(file, "text"):
        if not isinstance(row.prompt, str):
            raise BadInput(f'{row.place}: field "text" must be a string')
        texts.append(row.prompt)
    return texts


def _names(base: str | None, aligned: str | None, steer: str | None) -> dict[str, str | None]:
    from w2s import embedded

    if base is None or aligned is None:
        pair = embedded.pair()
        base, aligned = str(pair.untuned), str(pair.tuned)
    return {
        "base": base,
        "aligned": aligned,
        "steers": str(embedded.large()) if steer == "embedded" else steer,
    }


def _sweep(
    settings: SweepSettings,
    out: Path,
    resume: bool,
    *,
    names: dict[str, Any],
    prompts: Any,
    limit: int | None,
    guard_texts: list[str] | None,
    **wanted: Any,
) -> None:
    from w2s.cli.models import quiet_transformers
    from w2s.expo.sweep.curve import require_curve
    from w2s.expo.sweep.prepare import Wanted, prepare
    from w2s.expo.sweep.report import sweep_report, table, verdict, write_report
    from w2s.expo.sweep.reviews import review_openings, review_texts
    from w2s.expo.sweep.store import SweepStore, require_free

    quiet_transformers()
    require_curve()
    require_free(out, resume=resume)
    if prompts is None:
        skip = _SKIP if names["steers"] is None else _SKIP_STEERED
        prompts = review_openings(limit or _OPENINGS, skip=skip)
        guard_texts = guard_texts or review_texts(_GUARD_REVIEWS, skip=_GUARD_SKIP)
    ready = prepare(
        Wanted(
            settings=settings, prompts=prompts, guard_texts=guard_texts or (), **names, **wanted
        ),
        out,
        _say,
    )
    with SweepStore(out, ready.settings, resume=resume) as store:
        if store.finished:
            _say(f"going on after {len(store.finished)} finished α in {out}")
        with _progress() as on_step:
            found = ready.sweep.run(store, on_step)
    report = sweep_report(
        found, ready.settings, guard_limit=settings.guard_limit,
        reward_label=ready.sweep.reward.label, memory=asdict(ready.sweep.served.bytes),
        command=ready.command,
    )  # fmt: skip
    written = write_report(report, out)
    typer.echo(table(report) + "\n")
    typer.echo(verdict(report))
    _say("wrote " + ", ".join(map(str, written)))


def _say(line: str) -> None:
    typer.echo(f"w2s: {line}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal; else a line for each α."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=None)

        def on_step(step: Step) -> None:
            what = f"α = {step.alpha:g} ({step.place + 1} of {step.alphas})"
            progress.update(
                task, total=step.alphas * step.total,
                completed=step.place * step.total + step.done,
                description=f"{what}, {step.done}/{step.total} prompts",
            )  # fmt: skip
            if not console.is_terminal and step.done == 0:
                _say(what)

        yield on_step
