"""The comparison of training steps: the ways agree, and one that does not ends it."""

import json
from typing import Any

import pytest
import torch
import train_speed
from training_tasks import SHAPES, make_task
from training_ways import FUSED, OURS, PLAIN, WAYS, Way

FAST = ["--shapes", "tiny", "--threads", "1", "--rounds", "2"]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_way_gives_the_losses_and_gradients_of_plain_torch(kind: str) -> None:
    present = [way for way in WAYS.values() if way.absent is None]
    loss, far = train_speed.agreement(make_task("tiny", kind, 1), present)
    assert loss > 0.1
    assert far[PLAIN] == {"loss": 0.0, "gradient": 0.0}
    assert far[OURS]["gradient"] > 0.0  # another order of sums: it was not compared with itself


def test_margins_of_the_preference_batch_are_not_zero() -> None:
    task = make_task("tiny", "dpo", 1)
    assert abs(float(task.loss(WAYS[OURS]).detach()) - torch.tensor(2.0).log().item()) > 1e-5
    rows, length = SHAPES["tiny"].dpo
    assert task.targets == rows * (length - length // 4)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_way_with_a_wrong_gradient_ends_with_exit_code_1_and_no_figures(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain = WAYS[PLAIN].cross_entropy
    assert plain is not None

    def wrong(hidden: Any, weight: Any, target: Any, reduction: str) -> Any:
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: grad * 1.001)
        return plain(hidden, weight, target, reduction)

    monkeypatch.setitem(WAYS, FUSED, Way(FUSED, wrong))
    path = tmp_path / "report.json"
    assert train_speed.main([*FAST, "--kinds", kind, "--json", str(path)]) == 1
    assert f"tiny, {kind}: the gradient of {FUSED} is 1.0e-03 away" in capsys.readouterr().err
    assert not path.exists()


def test_a_way_whose_loss_changes_while_it_is_timed_is_found() -> None:
    calls = iter([1.0, 1.0, 1.1])
    plain = WAYS[PLAIN].cross_entropy
    assert plain is not None
    drifting = Way("drifting", lambda *args: plain(*args) * next(calls))
    task = make_task("tiny", "sft", 4)
    loss = float(task.loss(WAYS[PLAIN]).detach())
    with pytest.raises(train_speed.Disagreement, match="step 3 \\(drifting\\)"):
        train_speed.timed(task, [drifting], 3, loss)


def test_timed_steps_leave_the_model_as_it_was() -> None:
    task = make_task("tiny", "sft", 4)
    before = [p.detach().clone() for p in task.policy.module.parameters()]
    loss = float(task.loss(WAYS[PLAIN]).detach())
    seconds = train_speed.timed(task, [WAYS[OURS], WAYS[PLAIN]], 1, loss)
    after = task.policy.module.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {name: len(found) for name, found in seconds.items()} == {OURS: 1, PLAIN: 1}


def test_a_torch_without_the_function_leaves_its_ways_out(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    why = "torch 2.11.0 has no linear_cross_entropy"
    monkeypatch.setitem(WAYS, FUSED, Way(FUSED, WAYS[FUSED].cross_entropy, why))
    path = tmp_path / "report.json"
    options = [*FAST, "--kinds", "sft", "--no-memory", "--json", str(path)]
    assert train_speed.main(options) == 0
    report = json.loads(path.read_text())
    assert report["absent"] == {FUSED: why}
    assert FUSED not in report["training"][0]["ways"]
    assert f"{FUSED}: absent, {why}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_is_stamped_and_has_times_and_peaks(tmp_path: Any, capsys: Any) -> None:
    path = tmp_path / "new" / "report.json"
    options = [*FAST, "--ways", OURS, PLAIN, "--json", str(path)]
    assert train_speed.main(options) == 0
    report = json.loads(path.read_text())
    assert report["stamp"]["cpu"]["cores"] >= 1
    assert [run["kind"] for run in report["training"]] == ["sft", "dpo"]
    for run in report["training"]:
        for way in run["ways"].values():
            assert len(way["seconds"]) == 2
            assert way["peak_bytes"] > 0
    assert "| tiny | dpo | 1 | plain torch |" in capsys.readouterr().out
