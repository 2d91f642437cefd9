"""`w2s expo`: θ₂ = θ₁ + α(θ₁ − θ₀) of two checkpoints, and `w2s expo check`, which looks first."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli import expo_sweep
from w2s.cli.errors import BadInput, Interrupted, one_sentence
from w2s.cli.expo_options import (
    ALIGNED,
    ALIGNED_REVISION,
    ALPHA,
    ALPHA_FOR,
    BASE,
    BASE_REVISION,
    CONFIG,
    DTYPE,
    HOW_FAR,
    LORA,
    RESULT,
    ROUNDING,
    RUN,
    SEED,
    SHARD_SIZE,
    SKIP,
    Lora,
    Rounding,
    build_recipe,
    in_options,
)
from w2s.cli.expo_progress import byte_progress
from w2s.cli.expo_show import plan_lines, plan_of, say_findings, show_report
from w2s.cli.findings import show
from w2s.cli.grouped_help import GroupedCommands, GroupedHelp

if TYPE_CHECKING:
    from w2s.expo.recipe import Recipe
    from w2s.expo.survey import Survey

EXAMPLE = "Example: w2s expo --base ./sft --aligned ./dpo --alpha 0.3 --out ./expo"
CHECK_EXAMPLE = "Example: w2s expo check --base ./sft --aligned ./dpo --alpha 0.3"
# What `w2s expo check` looks at where it is given no alpha.
_USUAL_ALPHA = 0.3

app = typer.Typer(cls=GroupedCommands, invoke_without_command=True, rich_markup_mode=None)


@app.callback(epilog=EXAMPLE)
def command(
    context: typer.Context,
    base: str | None = BASE,
    aligned: str | None = ALIGNED,
    base_revision: str | None = BASE_REVISION,
    aligned_revision: str | None = ALIGNED_REVISION,
    lora: Lora | None = LORA,
    config: Path | None = CONFIG,
    alpha: float | None = ALPHA,
    alpha_for: list[str] = ALPHA_FOR,
    skip: list[str] = SKIP,
    out: Path | None = typer.Option(
        None, "--out", "-o", metavar="DIR", rich_help_panel=RESULT,
        help="Folder to write; it must not exist.",
    ),
    dtype: str | None = DTYPE,
    rounding: Rounding = ROUNDING,
    seed: int = SEED,
    shard_size: str | None = SHARD_SIZE,
    resume: bool = typer.Option(
        False, "--resume", rich_help_panel=RUN,
        help="Go on with the finished files of an interrupted run of the same command.",
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", rich_help_panel=RUN,
        help="Only say what would be read and written; with -v, what is done with each tensor.",
    ),
    force_space: bool = typer.Option(
        False, "--force-space", help="Begin even if the disk seems too full.", rich_help_panel=RUN
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Say more.", rich_help_panel=RUN
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print the report as one JSON object.", rich_help_panel=RUN
    ),
) -> None:  # fmt: skip
    """Extrapolate weights: θ₁ + α(θ₁ − θ₀), tensor by tensor, at the speed of the disk.

    θ₀ is a model before preference training, θ₁ after it; the result is moved on in the same
    direction (ExPO, arXiv 2404.16792). The arithmetic is float64, rounded once. Memory does not
    grow with the models.

    What w2s expo check finds is printed first, and an error ends the run before a byte of weight
    is read. The result appears under its name when all of it is on the disk; until then it is in
    DIR.partial, where --resume finds it.
    """
    given = [
        name for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]  # fmt: skip
    if context.invoked_subcommand is not None:
        if given:
            name = context.invoked_subcommand
            raise BadInput(f"options of w2s expo {name} come after its name: w2s expo {name} …")
        return
    if not given:
        typer.echo(context.get_help())
        return
    recipe = build_recipe(
        {
            "base": base, "aligned": aligned, "base_revision": base_revision,
            "aligned_revision": aligned_revision, "adapter": lora and lora.value, "alpha": alpha,
            "alpha_for": alpha_for, "skip": skip, "dtype": dtype, "rounding": rounding.value,
            "seed": seed, "shard_size": shard_size,
        },
        config,
    )  # fmt: skip
    if dry_run:
        survey = _survey(recipe, out, resume, force_space)
        if as_json:
            typer.echo(json.dumps(_as_json(survey, plan=True), ensure_ascii=False))
        else:
            show(survey.findings, [*plan_lines(survey), *(plan_of(survey) if verbose else ())])
        _require(survey)
        return
    if out is None:
        raise BadInput("--out is missing; give the folder to write, or --dry-run")
    _run(recipe, out, resume=resume, force_space=force_space, verbose=verbose, as_json=as_json)


@app.command("check", cls=GroupedHelp, epilog=CHECK_EXAMPLE)
def check(
    base: str | None = BASE,
    aligned: str | None = ALIGNED,
    base_revision: str | None = BASE_REVISION,
    aligned_revision: str | None = ALIGNED_REVISION,
    lora: Lora | None = LORA,
    config: Path | None = CONFIG,
    alpha: float | None = typer.Option(
        None, help=f"As for w2s expo.  [default: {_USUAL_ALPHA}]", rich_help_panel=HOW_FAR
    ),
    alpha_for: list[str] = ALPHA_FOR,
    skip: list[str] = SKIP,
    out: Path | None = typer.Option(
        None, "--out", "-o", metavar="DIR", rich_help_panel=RESULT,
        help="Also look at the place of the result, and whether the disk has room.",
    ),
    dtype: str | None = DTYPE,
    rounding: Rounding = ROUNDING,
    seed: int = SEED,
    shard_size: str | None = SHARD_SIZE,
    as_json: bool = typer.Option(
        False, "--json", help="Print the findings as one JSON object.", rich_help_panel=RUN
    ),
) -> None:  # fmt: skip
    """Check that two checkpoints can be extrapolated, before a byte of weight is read.

    Reads configs, tokenizers and the headers of the weight files, and prints what it finds: errors
    (w2s expo would refuse), warnings (it would run, and probably not as meant) and notes, each with
    what to do.

    Exit code 0: no errors (there may be warnings and notes). 1: errors were found. 2: bad input,
    such as a folder that does not exist.
    """
    recipe = build_recipe(
        {
            "base": base, "aligned": aligned, "base_revision": base_revision,
            "aligned_revision": aligned_revision, "adapter": lora and lora.value, "alpha": alpha,
            "alpha_for": alpha_for, "skip": skip, "dtype": dtype, "rounding": rounding.value,
            "seed": seed, "shard_size": shard_size,
        },
        config,
        alpha_default=_USUAL_ALPHA,
    )  # fmt: skip
    survey = _survey(recipe, out)
    if as_json:
        typer.echo(json.dumps(_as_json(survey), ensure_ascii=False))
    else:
        show(survey.findings, plan_lines(survey))
    if survey.errors:
        raise typer.Exit(1)


app.command("sweep", cls=GroupedHelp, epilog=expo_sweep.EXAMPLE)(expo_sweep.command)


def _survey(
    recipe: Recipe, out: Path | None, resume: bool = False, force_space: bool = False
) -> Survey:
    from w2s.cli.models import quiet_transformers
    from w2s.errors import W2SError
    from w2s.expo.survey import check_recipe

    quiet_transformers()
    try:
        return check_recipe(recipe, out, resume=resume, force_space=force_space)
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(in_options(one_sentence(error))) from error


def _require(survey: Survey) -> None:
    from w2s.errors import ExpoError

    try:
        survey.require()
    except ExpoError as error:
        raise BadInput(in_options(one_sentence(error))) from error


def _run(
    recipe: Recipe, out: Path, *, resume: bool, force_space: bool, verbose: bool, as_json: bool
) -> None:
    from w2s.errors import W2SError
    from w2s.expo.run import extrapolate_checkpoint

    began = time.perf_counter()
    try:
        survey = _survey(recipe, out, resume, force_space)
        _require(survey)
        say_findings(survey.findings, verbose)
        with byte_progress() as progress:
            report = extrapolate_checkpoint(
                recipe, out, resume=resume, force_space=force_space, on_progress=progress
            )
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(in_options(one_sentence(error))) from error
    except KeyboardInterrupt:
        partial = out.with_name(out.name + ".partial")
        if not partial.exists():
            raise Interrupted("interrupted: nothing was written") from None
        raise Interrupted(
            f"interrupted: what is finished is in {partial}; the same command with --resume goes on"
        ) from None
    if as_json:
        typer.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        show_report(report, out, time.perf_counter() - began, progress.seconds)


def _as_json(survey: Survey, plan: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "looked_at": survey.looked_at,
        "findings": [asdict(finding) for finding in survey.findings],
        "bytes_read": survey.bytes_read,
        "bytes_written": survey.bytes_written,
        "files": len(survey.shards),
    }
    if plan:
        found["tensors"] = [
            {
                "name": task.aligned.name, "shape": list(task.aligned.shape),
                "dtype": task.out_code, "alpha": None if task.base is None else task.alpha,
                "why": task.why,
            }
            for task in survey.tasks
        ]  # fmt: skip
    return found
