"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from w2s.models import Model, load
from w2s.train.candidates import CandidateSet, Drawn, target_counts
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
from w2s.train.policy import load_policy, padded, target_logprob
from w2s.train.rows import IGNORE, RowError, encode, epoch_batches, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class DPOConfig(TrainConfig):
    """Settings of `train_dpo`; `batch` counts pairs.

    `beta` scales the implicit reward. `label_smoothing` ε is the chance that a label is wrong
    (conservative DPO). `nll_weight` adds that many times the mean negative log-prob of the chosen
    tokens, which keeps them likely: DPO alone may lower both sides. `length` cuts each side (prompt
    and response together) to so many tokens; `end` says whether responses are ended by the end
    token (no, if they are excerpts).
    """

    lr: float = 1e-6
    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_weight: float = 0.0
    length: int = 512
    end: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("beta", self.beta, self.beta > 0, "positive")
        smoothing = self.label_smoothing
        require("label_smoothing", smoothing, 0 <= smoothing < 0.5, "in [0, 0.5)")
        require("nll_weight", self.nll_weight, self.nll_weight >= 0, "at least 0")
        require("length", self.length, self.length >= 2, "at least 2 tokens")


def train_dpo(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    config: DPOConfig | None = None,
    *,
    tokenizer: str | Path | None = None,
    save_tokenizer: bool = True,
    device: str = "auto",
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainResult:
    """Trains any transformers causal LM on JSONL rows {"prompt", "chosen", "rejected"}.

    The reference is the model as it was at the start, frozen. Other arguments, what is written, and
    what is raised are as in `w2s.train.sft.train_sft`. Each step reports the metrics `accuracy`
    (share of pairs whose chosen side gained more) and `margin` (mean of β times that difference).
    """
    config = config or DPOConfig()
    with checkpoint(out) as folder:
        policy = load_policy(model, tokenizer, device, config.seed, config.candidates)
        reference = load((copy.deepcopy(policy.module).eval(), policy.tokenizer))
        pairs = _pairs(data, policy.tokenizer, config)
        drawer = _drawer(pairs, policy.vocab, config)
        batches = epoch_batches(len(pairs), config.batch, config.seed)

        def next_step() -> Step:
            # All chosen sides, then all rejected: [2B, T].
            rows = [pairs[i] for i in next(batches)]
            sides = [row[0] for row in rows] + [row[1] for row in rows]
            ids = padded([side[0] for side in sides], 0).to(policy.device)
            target = padded([side[1] for side in sides], IGNORE).to(policy.device)
            drawn = drawer.draw(target[target != IGNORE]) if drawer else None
            loss, metrics = dpo_loss(policy, reference, ids, target, config, drawn)
            return Step(loss, ids.numel(), metrics)

        steps = config.total_steps(len(pairs))
        losses, tokens, seconds = optimise(policy.module, next_step, steps, config, on_step)
        record = {"kind": "dpo", "steps": steps, "tokens": tokens, "seconds": round(seconds, 1)}
        save(policy.module, policy.tokenizer if save_tokenizer else None, folder, config, record)
    return TrainResult(Path(out), steps, tokens, seconds, losses)


def dpo_loss(
    policy: Model,
    reference: Model,
    ids: Tensor,
    target: Tensor,
    config: DPOConfig,
    drawn: Drawn | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its figures: ids, target [2B, T], chosen sides first.

    loss = −(1−ε) log σ(βΔ) − ε log σ(−βΔ) + nll_weight · NLL(chosen), with Δ the difference of the
    two sides' summed log(policy / reference), averaged over the B pairs.
    """
    logprob = target_logprob(policy, ids, target, drawn)  # [2B, T]
    with torch.no_grad():
        frozen = target_logprob(reference, ids, target, drawn)
    chosen, rejected = (logprob - frozen).sum(dim=1).chunk(2)  # [B] each
    margin = config.beta * (chosen - rejected)
    wrong = config.label_smoothing
    loss = -((1 - wrong) * F.logsigmoid(margin) + wrong * F.logsigmoid(-margin)).mean()
    if config.nll_weight:
        half = len(ids) // 2
        count = (target[:half] != IGNORE).sum()
        loss = loss - config.nll_weight * logprob[:half].sum() / count
    metrics = {
        "accuracy": float((margin > 0).float().mean()),
        "margin": float(margin.detach().mean()),
    }
    return loss, metrics


_Side = tuple[list[int], list[int]]  # ids and targets of one text


def _pairs(
    data: str | Path, tokenizer: PreTrainedTokenizerBase, config: DPOConfig
) -> list[tuple[_Side, _Side]]:
    """Every row's chosen and rejected side, cut to `length`.

    Raises:
        RowError: a side has no token left to learn from.
    """
    pairs = []
    for number, row in read_rows(data, ("prompt", "chosen", "rejected")):
        sides = []
        for name in ("chosen", "rejected"):
            ids, target = encode(tokenizer, row["prompt"], row[name], end=config.end)
            ids, target = ids[: config.length], target[: config.length]
            target[-1] = IGNORE  # its target was cut off
            if all(token == IGNORE for token in target):
                raise RowError(
                    f'{data}, line {number}: field "{name}" leaves no token to learn within '
                    f"length={config.length}; shorten the prompt or raise length"
                )
            sides.append((ids, target))
        pairs.append((sides[0], sides[1]))
    return pairs


def _drawer(pairs: list[tuple[_Side, _Side]], vocab: int, config: DPOConfig) -> CandidateSet | None:
    if not config.candidates:
        return None
    targets = [token for pair in pairs for _, target in pair for token in target]
    return CandidateSet(target_counts(torch.tensor(targets), vocab), config.candidates, config.seed)
