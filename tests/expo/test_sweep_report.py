"""From rows to figures, and from figures to table, page and curve."""

import pytest

from w2s.expo.sweep.figures import figures
from w2s.expo.sweep.report import sweep_report, table, verdict, write_report

REWARD = {0.0: [[0.0, 0.2], [0.4]], 0.5: [[1.0, 0.6], [0.5]], -1.0: [[0.0, 0.1], [0.1]]}


def rows(alpha):
    return [
        {
            "alpha": alpha, "place": prompt, "sample": sample, "prompt": "p",
            "response": "a b a b",
            "tokens": 4 + prompt, "reward": value, "vader": -value,
        }
        for prompt, values in enumerate(REWARD[alpha])
        for sample, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def found():
    finished = {alpha: {"guard": 10.0 + alpha, "seconds": 0.5} for alpha in REWARD}
    finished[30.0] = {"failed": "logits are not finite after prompt 1", "seconds": 0.1}
    return figures(
        {alpha: rows(alpha) for alpha in REWARD}, finished, dict.fromkeys(REWARD, 2.0),
        resamples=200,
    )  # fmt: skip


def report(found, limit=1.1):
    return sweep_report(
        found, {"reward": "x", "plan": {"seed": 0}}, guard_limit=limit, reward_label="a reward",
        memory={"model": 8}, command=("w2s", "expo", "--base", "my base", "--aligned", "b"),
    )  # fmt: skip


def test_a_prompt_counts_once_and_gains_are_paired_by_prompt(found):
    assert [one.alpha for one in found] == [-1.0, 0.0, 0.5, 30.0]
    minus, zero, half, broken = found
    assert zero.measures["reward"].mean == pytest.approx((0.1 + 0.4) / 2)
    assert half.measures["reward"].mean == pytest.approx((0.8 + 0.5) / 2)
    assert half.gains["reward"].mean == pytest.approx((0.7 + 0.1) / 2)
    assert half.gains["reward"].low >= 0.1 - 1e-12  # of resampled differences, not of two means
    assert half.gains["vader"].mean == -half.gains["reward"].mean
    assert zero.gains["reward"].mean == zero.gains["reward"].high == 0.0
    assert zero.measures["tokens"].mean == 4.5
    assert zero.measures["words"].mean == 4.0
    assert zero.measures["distinct-2"].mean == pytest.approx(2 / 3)
    assert (minus.guard_ratio, half.guard_ratio) == (0.9, 1.05)
    assert zero.seconds == 2.5
    assert broken.failed
    assert broken.point.gain is None


def test_the_table_has_a_row_for_each_alpha(found):
    lines = table(report(found)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| α | reward | gain over α = 0 | vader | vader gain | tokens |")
    assert lines[2].startswith("| −1 | 0.075 [0.050, 0.100] | −0.175 [−0.300, −0.050] |")
    assert lines[3].startswith("| 0 | 0.250 [0.100, 0.400] | – |")
    assert lines[5].startswith("| 30 | logits are not finite after prompt 1 | – |")


def test_the_verdict_names_the_command_that_makes_the_checkpoint(found):
    said = verdict(report(found))
    assert said.startswith("Recommended: α = 0.5 has the highest lower bound")
    assert said.endswith("w2s expo --base 'my base' --aligned b --alpha 0.5 --out DIR")
    kept = verdict(report([one for one in found if one.alpha <= 0]))
    assert kept.startswith("Recommended: keep the aligned model (α = 0): nothing beats α = 0")
    assert "w2s expo" not in kept


def test_everything_is_written_and_the_same_report_gives_the_same_bytes(found, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(report(found), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "curve.svg", "sweep.json", "sweep.md",
    ]  # fmt: skip
    curve = (tmp_path / "one" / "curve.svg").read_text(encoding="utf-8")
    assert "recommended: 0.5" in curve
    assert "a reward" in curve
    assert "guard" in curve


def test_a_sweep_without_guard_text_shows_none(tmp_path):
    found = figures(
        {alpha: rows(alpha) for alpha in REWARD}, {alpha: {} for alpha in REWARD}, {}, resamples=50
    )
    made = report(found)
    assert "guard" not in table(made)
    write_report(made, tmp_path)
    assert "guard" not in (tmp_path / "curve.svg").read_text(encoding="utf-8")
