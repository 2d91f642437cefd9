"""Supervised fine-tuning on a toy language."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from w2s.train import ConfigError, RowError, SFTConfig, StepReport, train_sft

TOY = SFTConfig(lr=3e-2, steps=30, batch=4, length=8, warmup=3, seed=1)
ROWS = [{"text": "the film was good and the plot was fine"}] * 20


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("candidates", [0, 8])
def test_training_lowers_the_loss(
    tiny_model: Path, write_rows: Any, tmp_path: Path, candidates: int
) -> None:
    config = replace(TOY, candidates=candidates)
    result = train_sft(tiny_model, write_rows(*ROWS), tmp_path / "out", config)
    assert result.loss[0] > 1.5
    assert sum(result.loss[-5:]) / 5 < result.loss[0] / 2
    assert result.tokens == 30 * 4 * 8


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    rows = write_rows(*ROWS, *[{"prompt": "a dull film", "response": "was bad"}] * 20)
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = replace(TOY, steps=5, seed=seed, candidates=8)
        train_sft(tiny_model, rows, tmp_path / name, config)
        made.append(weights(tmp_path / name))
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert any(not torch.equal(made[0][key], made[2][key]) for key in made[0])


def test_the_first_loss_is_the_models_own_cross_entropy(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    rows = write_rows({"prompt": "the film", "response": "was good and fine"})
    config = SFTConfig(lr=1e-3, steps=1, batch=1, length=6)
    result = train_sft(tiny_model, rows, tmp_path / "out", config)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    ids = torch.tensor([[6, 5, 7, 2, 8, 10, 0]])  # the text and <end>
    logprob = model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
    assert result.loss[0] == pytest.approx(-logprob[1:].mean().item(), rel=1e-6)


def test_the_written_folder_loads_and_tells_its_settings(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = replace(TOY, steps=2, save_dtype="bfloat16")
    train_sft(tiny_model, write_rows(*ROWS), tmp_path / "out", config)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 12
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert record["kind"] == "sft"
    assert record["config"]["lr"] == TOY.lr


def test_progress_reports_every_step_with_its_rate(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    seen: list[StepReport] = []
    train_sft(tiny_model, write_rows(*ROWS), tmp_path / "out", TOY, on_step=seen.append)
    assert [report.step for report in seen] == list(range(1, 31))
    assert seen[0].lr == pytest.approx(TOY.lr / 3)
    assert max(report.lr for report in seen) == pytest.approx(TOY.lr)
    assert seen[-1].lr < TOY.lr / 100


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_nothing(
    tiny_model: Path, write_rows: Any, tmp_path: Path, interruption: type[BaseException]
) -> None:
    rows = write_rows(*ROWS)

    def interrupt(report: StepReport) -> None:
        if report.step == 3:
            if interruption is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            raise interruption

    with pytest.raises(interruption):
        train_sft(tiny_model, rows, tmp_path / "made" / "out", TOY, on_step=interrupt)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_writes_nothing(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    config = replace(TOY, lr=1e30, warmup=0, clip=1e30)
    with pytest.raises(FloatingPointError, match="lr="):
        train_sft(tiny_model, write_rows(*ROWS), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_an_existing_or_unwritable_output_is_refused_before_training(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    rows = write_rows(*ROWS)
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        train_sft("no-such-model", rows, tmp_path / "out", TOY)
    with pytest.raises(OSError, match="cannot be written"):
        train_sft("no-such-model", rows, rows / "out", TOY)  # its parent is a file


def test_too_little_data_for_one_window_is_refused(
    tiny_model: Path, write_rows: Any, tmp_path: Path
) -> None:
    with pytest.raises(RowError, match="length=512"):
        train_sft(tiny_model, write_rows(*ROWS), tmp_path / "out", SFTConfig(lr=1e-3))


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.0), ("batch", 0), ("steps", 0), ("epochs", -1.0), ("warmup", -1), ("clip", 0.0),
     ("candidates", -1), ("save_dtype", "int8"), ("seed", -1), ("length", 1), ("final_lr", 2.0),
     ("betas", (0.9, 1.0)), ("weight_decay", -0.1), ("lr", float("nan"))],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        replace(TOY, **{name: value})
