"""What both kinds of training share: settings, the optimiser's loop, and a checkpoint that is
either complete under its name or not there."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from w2s.errors import W2SError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ConfigError(W2SError, ValueError):
    """A training setting is out of its range; the message names it."""


def require(name: str, value: object, ok: bool, allowed: str) -> None:
    """Raises ConfigError naming the setting, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name}={value!r} is not allowed: it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of any training run.

    AdamW with `betas` and `weight_decay`; `lr` rises over `warmup` steps, then falls by a cosine to
    `final_lr` × lr; gradients are clipped to the norm `clip`. `batch` is rows (pairs, windows) a
    step; `steps` None means `epochs` passes over the data. `candidates` > 0 restricts the softmax
    to about that many tokens a step (w2s.train.candidates); 0 is exact. `save_dtype` is that of the
    written weights; training itself is float32.
    """

    lr: float
    batch: int = 16
    steps: int | None = None
    epochs: float = 1.0
    warmup: int = 0
    final_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0
    candidates: int = 0
    save_dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        require("lr", self.lr, 0 < self.lr < math.inf, "a positive number")
        require("batch", self.batch, self.batch >= 1, "at least 1")
        require("steps", self.steps, self.steps is None or self.steps >= 1, "at least 1, or None")
        require("epochs", self.epochs, 0 < self.epochs < math.inf, "a positive number")
        require("warmup", self.warmup, self.warmup >= 0, "at least 0")
        require("final_lr", self.final_lr, 0 <= self.final_lr <= 1, "in [0, 1]")
        require("betas", self.betas, all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        require("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        require("clip", self.clip, self.clip > 0, "positive (math.inf: no clipping)")
        require(
            "candidates", self.candidates, self.candidates >= 0, "at least 0 (0: the exact softmax)"
        )
        dtypes = ("float32", "bfloat16", "float16")
        require("save_dtype", self.save_dtype, self.save_dtype in dtypes, f"one of {dtypes}")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in [0, 2**63)")

    def total_steps(self, rows: int) -> int:
        """Steps of a run over `rows` rows."""
        return self.steps or max(1, round(self.epochs * rows / self.batch))


class StepReport(NamedTuple):
    """What a progress callback is told after each step. `metrics` holds the kind's own figures."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float
    metrics: dict[str, float]


class TrainResult(NamedTuple):
    """Where the finished model is, and how its training went (`loss` is each step's)."""

    folder: Path
    steps: int
    tokens: int
    seconds: float
    loss: list[float]


@dataclass
class Step:
    """One step's loss (a differentiable scalar), the tokens it read, and figures to report."""

    loss: Tensor
    tokens: int
    metrics: dict[str, float] = field(default_factory=dict)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear warm-up, then a cosine to final_lr × lr."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


def optimise(
    model: PreTrainedModel,
    next_step: Callable[[], Step],
    steps: int,
    config: TrainConfig,
    on_step: Callable[[StepReport], None] | None,
) -> tuple[list[float], int, float]:
    """Runs `steps` optimiser steps; returns each step's loss, the tokens read, the seconds taken.

    Raises:
        FloatingPointError: the loss is not finite, before it can reach the weights.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    optimiser.zero_grad(set_to_none=True)
    losses: list[float] = []
    tokens, begin = 0, time.perf_counter()
    for number in range(steps):
        rate = learning_rate(config, number, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        step = next_step()
        losses.append(float(step.loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"The loss is {losses[-1]} at step {number + 1}; nothing was written. "
                f"Lower lr={config.lr} or lengthen warmup={config.warmup}."
            )
        step.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)  # now, so that the next forward has their memory
        tokens += step.tokens
        if on_step is not None:
            speed = tokens / (time.perf_counter() - begin)
            on_step(StepReport(number + 1, steps, losses[-1], rate, speed, step.metrics))
    return losses, tokens, time.perf_counter() - begin


@contextmanager
def checkpoint(out: str | Path) -> Iterator[Path]:
    """A scratch folder that becomes `out` when the block ends well, and vanishes when it does not.

    It is made before the block runs, so a place that cannot be written is known before any work.

    Raises:
        FileExistsError: `out` exists already.
        OSError: its parent directory cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or choose another output folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-unfinished-", dir=out.parent))
    except OSError as error:
        raise OSError(f"{out} cannot be written: {error.strerror} ({out.parent})") from error
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes 0o700
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    config: TrainConfig,
    record: dict[str, Any],
) -> None:
    """Writes model, tokenizer (unless None) and `train.json` (settings, outcome) into `folder`."""
    model.to(getattr(torch, config.save_dtype)).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    text = json.dumps({"config": asdict(config), **record}, indent=2)
    (folder / "train.json").write_text(text + "\n", encoding="utf-8")
