"""`w2s train sft` and `w2s train dpo`: thin faces of `w2s.train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli.errors import BadInput, one_sentence

if TYPE_CHECKING:
    from w2s.train.loop import StepReport, TrainResult

SFT_EXAMPLE = (
    "Example: w2s train sft ./untuned-base reviews.jsonl -o ./untuned --epochs 1 --lr 2e-5"
)
DPO_EXAMPLE = "Example: w2s train dpo ./untuned preferences.jsonl -o ./tuned --beta 0.5 --lr 1e-5"

app = typer.Typer(
    help="Make a pair: supervised fine-tuning (sft), then preference training (dpo).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MODEL = typer.Argument(help="Folder or hub id of the model to start from.")
_OUT = typer.Option(..., "--output", "-o", help="Folder to write; it must not exist.")
_TOKENIZER = typer.Option(None, help="Folder or hub id; the model's own by default.")
_LR = typer.Option(None, help="Learning rate of AdamW.")
_BATCH = typer.Option(None, help="Windows (sft) or pairs (dpo) a step.")
_STEPS = typer.Option(None, help="Optimiser steps, instead of --epochs.")
_EPOCHS = typer.Option(None, help="Passes over the data.")
_WARMUP = typer.Option(None, help="Steps in which the rate rises.")
_LENGTH = typer.Option(None, help="Longest sequence in tokens.")
_SEED = typer.Option(None, help="Fixes the order of the data.")
_CANDIDATES = typer.Option(None, help="Tokens in a sampled softmax; 0 is the exact one.")
_DTYPE = typer.Option(None, help="Of the written weights: float32, bfloat16 or float16.")
_DEVICE = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …")


@app.command("sft", epilog=SFT_EXAMPLE)
def sft(
    model: str = _MODEL,
    data: str = typer.Argument(help='JSONL rows {"prompt", "response"} or {"text"}.'),
    output: str = _OUT,
    tokenizer: str | None = _TOKENIZER,
    lr: float | None = _LR,
    batch: int | None = _BATCH,
    steps: int | None = _STEPS,
    epochs: float | None = _EPOCHS,
    warmup: int | None = _WARMUP,
    length: int | None = _LENGTH,
    seed: int | None = _SEED,
    candidates: int | None = _CANDIDATES,
    save_dtype: str | None = _DTYPE,
    device: str = _DEVICE,
) -> None:
    """Supervised fine-tuning on responses or whole texts."""
    given = {
        "lr": lr, "batch": batch, "steps": steps, "epochs": epochs, "warmup": warmup,
        "length": length, "seed": seed, "candidates": candidates, "save_dtype": save_dtype,
    }  # fmt: skip

    def run(on_step: Callable[[StepReport], None]) -> TrainResult:
        from w2s.train.sft import SFTConfig, train_sft

        config = SFTConfig(**_set(given))
        return train_sft(
            model, data, output, config, tokenizer=tokenizer, device=device, on_step=on_step
        )

    _train("sft", run)


@app.command("dpo", epilog=DPO_EXAMPLE)
def dpo(
    model: str = _MODEL,
    data: str = typer.Argument(help='JSONL rows {"prompt", "chosen", "rejected"}.'),
    output: str = _OUT,
    tokenizer: str | None = _TOKENIZER,
    beta: float | None = typer.Option(None, help="Scale of the implicit reward."),
    label_smoothing: float | None = typer.Option(None, help="Chance that a label is wrong."),
    nll_weight: float | None = typer.Option(None, help="Weight of the chosen side's NLL."),
    lr: float | None = _LR,
    batch: int | None = _BATCH,
    steps: int | None = _STEPS,
    epochs: float | None = _EPOCHS,
    warmup: int | None = _WARMUP,
    length: int | None = _LENGTH,
    seed: int | None = _SEED,
    candidates: int | None = _CANDIDATES,
    save_dtype: str | None = _DTYPE,
    device: str = _DEVICE,
) -> None:
    """Direct preference optimisation; the starting model is the frozen reference."""
    given = {
        "lr": lr, "batch": batch, "steps": steps, "epochs": epochs, "warmup": warmup,
        "length": length, "seed": seed, "candidates": candidates, "save_dtype": save_dtype,
        "beta": beta, "label_smoothing": label_smoothing, "nll_weight": nll_weight,
    }  # fmt: skip

    def run(on_step: Callable[[StepReport], None]) -> TrainResult:
        from w2s.train.dpo import DPOConfig, train_dpo

        config = DPOConfig(**_set(given))
        return train_dpo(
            model, data, output, config, tokenizer=tokenizer, device=device, on_step=on_step
        )

    _train("dpo", run)


def _set(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _train(kind: str, run: Callable[[Callable[[StepReport], None]], TrainResult]) -> None:
    from w2s.cli.models import quiet_transformers

    quiet_transformers()
    try:
        with _progress(kind) as on_step:
            result = run(on_step)
    except (ValueError, OSError, FloatingPointError) as error:
        # Settings, rows, models and folders that cannot be used; nothing was written.
        raise BadInput(one_sentence(error)) from error
    rate = result.tokens / max(result.seconds, 1e-9)
    typer.echo(
        f"{result.folder}: {result.steps} steps, {result.tokens} tokens in {result.seconds:.1f} s "
        f"({rate:.0f} tokens/s), last loss {result.loss[-1]:.4f}",
        err=True,
    )


@contextmanager
def _progress(kind: str) -> Iterator[Callable[[StepReport], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} tokens/s"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(kind, total=None, loss=float("nan"), speed=0.0)

        def on_step(report: StepReport) -> None:
            progress.update(
                task, total=report.steps, completed=report.step,
                loss=report.loss, speed=report.tokens_per_second,
            )  # fmt: skip

        yield on_step
