"""Preference training against the paper's formula in plain float64."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from w2s.models import load
from w2s.train import ConfigError, DPOConfig, RowError, train_dpo
from w2s.train.dpo import dpo_loss
from w2s.train.rows import IGNORE

TOY = DPOConfig(lr=1e-2, beta=0.5, steps=25, batch=4, length=16, seed=1)
ROWS = [
    {"prompt": "the film was", "chosen": "good", "rejected": "bad"},
    {"prompt": "", "chosen": "a fine plot", "rejected": "a dull plot"},
] * 8


def plain_loss(policy: Any, reference: Any, ids: Any, target: Any, config: DPOConfig) -> Any:
    """Equation 7 of arXiv 2305.18290 with label smoothing and the NLL term, logits stored."""

    def summed(model: Any) -> Any:
        logprob = model(ids).logits.log_softmax(-1)
        kept = logprob.gather(2, target.clamp(min=0)[:, :, None])[:, :, 0]
        return (kept * (target != IGNORE)).sum(1)

    ours, theirs = summed(policy), summed(reference).detach()
    half = len(ids) // 2
    margin = config.beta * ((ours - theirs)[:half] - (ours - theirs)[half:])
    smooth = config.label_smoothing
    loss = -((1 - smooth) * F.logsigmoid(margin) + smooth * F.logsigmoid(-margin)).mean()
    return loss - config.nll_weight * ours[:half].sum() / (target[:half] != IGNORE).sum()


@pytest.mark.parametrize(("smoothing", "nll"), [(0.0, 0.0), (0.1, 2.0)])
def test_loss_and_gradient_equal_the_formula_in_float64(
    tiny_model: Path, smoothing: float, nll: float
) -> None:
    from transformers import AutoModelForCausalLM

    config = replace(TOY, label_smoothing=smoothing, nll_weight=nll)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 12, (6, 9), generator=generator)
    target = torch.cat([ids[:, 1:], torch.full((6, 1), IGNORE)], dim=1)
    target[:, :2] = IGNORE  # the prompt
    target[1, 5:] = IGNORE  # padding
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    exact, exact_reference = copy.deepcopy(policy).double(), copy.deepcopy(reference).double()

    loss, metrics = dpo_loss(load((policy, None)), load((reference, None)), ids, target, config)
    loss.backward()
    wanted = plain_loss(exact, exact_reference, ids, target, config)
    wanted.backward()

    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert 0 <= metrics["accuracy"] <= 1
    for (name, got), right in zip(policy.named_parameters(), exact.parameters(), strict=True):
        scale = float(right.grad.abs().max())
        assert float((got.grad - right.grad).abs().max()) <= 2e-4 * scale + 1e-7, name
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_training_prefers_the_chosen_side(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    seen = []
    result = train_dpo(tiny_model, write_rows(*ROWS), tmp_path / "out", TOY, on_step=seen.append)
    assert result.loss[0] == pytest.approx(0.6931, abs=1e-3)  # policy = reference at the start
    assert result.loss[-1] < 0.3
    assert seen[-1].metrics["accuracy"] == 1.0


def test_the_same_seed_gives_the_same_weights(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    rows, config = write_rows(*ROWS), replace(TOY, steps=4, candidates=8, nll_weight=1.0)
    for name in ("a", "b"):
        train_dpo(tiny_model, rows, tmp_path / name, config)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_side_with_nothing_left_to_learn_is_refused(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    rows = write_rows(ROWS[0], {"prompt": "the film was " * 6, "chosen": "good", "rejected": "bad"})
    with pytest.raises(RowError, match=r'line 2: field "chosen" leaves no token'):
        train_dpo(tiny_model, rows, tmp_path / "out", TOY)


def test_an_interrupted_run_leaves_nothing(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dpo(tiny_model, write_rows(*ROWS), tmp_path / "made/out", TOY, on_step=interrupt)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta", 0.0), ("label_smoothing", 0.5), ("nll_weight", -1.0), ("length", 1)],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        replace(TOY, **{name: value})
