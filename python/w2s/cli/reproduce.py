"""`w2s reproduce`: the papers' experiments, from one command each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from w2s.cli.errors import BadInput, Interrupted, one_sentence

if TYPE_CHECKING:
    from w2s.reproduce.experiment import Batch
    from w2s.reproduce.store import Store

SENTIMENT_EXAMPLE = "Example: w2s reproduce sentiment --quick"
REPORT_EXAMPLE = "Example: w2s reproduce report build/reproduce-sentiment --page docs/quality.md"
JUDGE_EXAMPLE = "Example: w2s reproduce judge --output judge.npz"

app = typer.Typer(
    help="Run the papers' experiments again.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("sentiment", epilog=SENTIMENT_EXAMPLE)
def sentiment(
    quick: bool = typer.Option(
        False, "--quick", help="In minutes: 48 openings, one seed, fewer variants."
    ),
    work: Path | None = typer.Option(
        None, "--work", metavar="DIR", show_default=False,
        help="Finished batches, report and plots.  [default: build/reproduce-sentiment, with "
        "-quick behind it for --quick]",
    ),
    openings: int | None = typer.Option(
        None, min=1, help="Held-out openings.  [default: 200; quick: 48]", show_default=False
    ),
    seeds: int | None = typer.Option(
        None, min=1, help="Search seeds, from 0.  [default: 3; quick: 1]", show_default=False
    ),
    large: str | None = typer.Option(
        None, help="The model that writes.  [default: embedded]", show_default=False
    ),
    pair: tuple[str, str] | None = typer.Option(
        None, metavar="TUNED UNTUNED", help="The pair that steers.  [default: embedded]",
        show_default=False,
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …"),
) -> None:  # fmt: skip
    """Controlled sentiment (arXiv 2405.19262, section 5.1): base, EFT, best-of-N and CBS.

    Two judges that know neither model of the pair: a classifier trained on other reviews, and
    VADER. Says how long it will take, then works; every finished batch is on the disk at once, and
    the same command goes on after an interruption. The same seeds give the same texts on the same
    machine.

    Writes report.json and two plots into DIR and prints the tables.
    """
    from w2s.cli.models import load_models, model_names
    from w2s.embedded.demo_package import MissingDemoError, require_module
    from w2s.reproduce.sentiment import Scale, held_out_openings, judge_in, manifest, run
    from w2s.reproduce.store import Store

    scale = Scale(quick, openings, seeds)
    folder = work or Path("build", "reproduce-sentiment" + ("-quick" if quick else ""))
    try:
        for module in ("sklearn", "vaderSentiment", "matplotlib"):
            require_module(module)  # before the long part, not after it
    except MissingDemoError as error:
        raise BadInput(one_sentence(error)) from error
    names = model_names(large, pair)
    models = load_models(large, pair, device=device)
    experiment = scale.experiment()
    texts = held_out_openings(models, experiment)
    made_with = manifest(scale, texts, (names[0], *names[1]), models)
    store = Store(folder, made_with)
    try:
        with store:
            judge_in(folder, _say)
            with _progress(len(list(experiment.batches())), store) as on_batch:
                run(store, experiment, models, texts, say=_say, on_batch=on_batch)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {len(store.records)} finished batches are in {folder}; the same command "
            "goes on after them"
        ) from None
    _show(folder)


@app.command("report", epilog=REPORT_EXAMPLE)
def report(
    work: Path = typer.Argument(metavar="DIR", help="The --work folder of a finished run."),
    data: Path | None = typer.Option(
        None, "--json", metavar="FILE", help="Also write the report there, as JSON."
    ),
    page: Path | None = typer.Option(
        None, metavar="FILE", help="Also write it as a page of Markdown, with its plots beside it."
    ),
    note: str = typer.Option(
        "", metavar="TEXT", help="A sentence on how the run went, for the page."
    ),
) -> None:
    """Judge the texts of a finished `w2s reproduce sentiment` again and print the tables."""
    import shutil

    found = _show(work)
    try:
        if data is not None:
            data.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "report.json", data)
            _say(f"wrote {data}")
        if page is not None:
            from w2s.reproduce.page import publish

            for path in publish(found, str(work), page, note):
                _say(f"wrote {path}")
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from error


@app.command("judge", epilog=JUDGE_EXAMPLE)
def judge(
    output: Path = typer.Option(..., "--output", "-o", help="The file to write (.npz)."),
) -> None:
    """Train the review judge: TF-IDF and logistic regression on reviews the pair never saw.

    The file holds plain arrays and JSON; loading it runs no code.
    """
    from w2s import embedded
    from w2s.embedded.demo_package import MissingDemoError
    from w2s.reproduce.judge import train_judge

    try:
        parts = embedded.reviews()
        trained = train_judge(parts.judge, parts.test)
        trained.save(output)
    except MissingDemoError as error:
        raise BadInput(one_sentence(error)) from error
    except OSError as error:
        raise BadInput(f"--output {output}: {error.strerror}") from error
    facts = trained.facts
    typer.echo(
        f"{output}: {facts['terms']} terms from {facts['trained_on']} reviews; right on "
        f"{facts['accuracy']:.1%} of {facts['held_out']} held-out reviews, on "
        f"{facts['accuracy_of_pieces']:.1%} of their first 36 words"
    )


def _show(folder: Path) -> dict[str, object]:
    """Makes the report and prints its tables."""
    from w2s.reproduce.sentiment import make_report
    from w2s.reproduce.tables import (
        differences_table,
        methods_table,
        order_sentences,
        variants_table,
    )

    found = make_report(folder, _say)
    for part in (methods_table, variants_table, differences_table, order_sentences):
        typer.echo(part(found) + "\n")
    _say(f"wrote report.json and two plots into {folder}")
    return found


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextmanager
def _progress(total: int, store: Store) -> Iterator[Callable[[Batch, float, float], None]]:
    """A bar with the time left; where there is no terminal, a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from w2s.reproduce.pace import duration

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[done]}/{task.fields[of]} batches"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.description}"),
    )
    every = max(1, total // 20)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=None, done=0, of=total, left="?")

        def on_batch(batch: Batch, done: float, left: float) -> None:
            finished = len(store.records)
            progress.update(
                task, total=done + left, completed=done, done=finished, left=duration(left),
                description=f"{batch.run.name}, seed {batch.seed}",
            )  # fmt: skip
            if not console.is_terminal and finished % every == 0:
                _say(f"{finished} of {total} batches, about {duration(left)} left")

        yield on_batch
