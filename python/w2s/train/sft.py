"""Supervised fine-tuning: maximise the log-prob of the responses (or of whole texts)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from w2s.train.candidates import CandidateSet, target_counts
from w2s.train.loop import (
    Step,
    StepReport,
    TrainConfig,
    TrainResult,
    checkpoint,
    optimise,
    require,
    save,
)
from w2s.train.policy import load_policy, mean_nll
from w2s.train.rows import IGNORE, RowError, encode, epoch_batches, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainConfig):
    """Settings of `train_sft`; `batch` counts windows.

    All rows, each ended by the tokenizer's end token, are laid end to end and cut into windows of
    `length` tokens, so no computation goes into padding (a window may begin inside a row, and see
    the end of the one before). The loss is the mean negative log-prob a counted token, in nats.
    """

    lr: float = 2e-5
    length: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require("length", self.length, self.length >= 2, "at least 2 tokens")


def train_sft(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    config: SFTConfig | None = None,
    *,
    tokenizer: str | Path | None = None,
    save_tokenizer: bool = True,
    device: str = "auto",
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainResult:
    """Trains any transformers causal LM on JSONL rows {"prompt", "response"} or {"text"}.

    Args:
        model: folder or hub id of the model to start from.
        data: JSONL file. With {"prompt", "response"} only response tokens are learnt.
        out: folder to write; it must not exist, and appears complete or not at all.
        tokenizer: folder or hub id; by default the model's own.
        save_tokenizer: whether the written folder gets a copy of the tokenizer.
        device: "auto" (a GPU when there is one), or a torch device name.
        on_step: called after every step.

    The same inputs, seed, machine and thread count give the same weights.

    Raises:
        RowError: a row cannot be used (names file, line, field).
        ConfigError: a setting is out of its range.
        FileExistsError, OSError: `out` exists, or cannot be written (known before training).
    """
    config = config or SFTConfig()
    with checkpoint(out) as folder:
        policy = load_policy(model, tokenizer, device, config.seed, config.candidates)
        ids, target = _windows(data, policy.tokenizer, config.length)  # [W, T] both
        drawer = (
            CandidateSet(target_counts(target, policy.vocab), config.candidates, config.seed)
            if config.candidates
            else None
        )
        batches = epoch_batches(len(ids), config.batch, config.seed)

        def next_step() -> Step:
            rows = next(batches)
            batch, wanted = ids[rows].to(policy.device), target[rows].to(policy.device)
            drawn = drawer.draw(wanted[wanted != IGNORE]) if drawer else None
            return Step(mean_nll(policy, batch, wanted, drawn), batch.numel())

        steps = config.total_steps(len(ids))
        losses, tokens, seconds = optimise(policy.module, next_step, steps, config, on_step)
        record = {"kind": "sft", "steps": steps, "tokens": tokens, "seconds": round(seconds, 1)}
        save(policy.module, policy.tokenizer if save_tokenizer else None, folder, config, record)
    return TrainResult(Path(out), steps, tokens, seconds, losses)


def _windows(
    data: str | Path, tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[Tensor, Tensor]:
    """Ids and targets [W, length] of all rows laid end to end; a last part of a window is left.

    Raises:
        RowError: the rows together are shorter than one window.
    """
    stream: list[int] = []
    targets: list[int] = []  # targets[i] is ids[i] where it is learnt, else IGNORE
    for _, row in read_rows(data, ("prompt", "response"), ("text",)):
        prompt, response = row.get("prompt", ""), row.get("response", row.get("text", ""))
        ids, following = encode(tokenizer, prompt, response, end=True)
        # The first token of a row without a prompt follows the row before: learnt like any other.
        first = ids[0] if not prompt else IGNORE
        stream += ids
        targets += [first, *following[:-1]]
    count = (len(stream) - 1) // length
    if count < 1:
        raise RowError(
            f"{data}: holds {len(stream)} tokens, fewer than one window of length={length} and one "
            "token more; give more rows or a smaller length"
        )
    used = count * length
    return (
        torch.tensor(stream[:used]).view(count, length),
        torch.tensor(targets[1 : used + 1]).view(count, length),
    )
