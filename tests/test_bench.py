"""`python -m w2s_kernels.bench`: every case is right on a small size, and a wrong result shows."""

import csv
import dataclasses
import io
import json
import subprocess

import pytest
import torch

from w2s_kernels.bench import peers, report
from w2s_kernels.bench.__main__ import CASES, main
from w2s_kernels.bench.case import Provider, worst
from w2s_kernels.bench.measure import measure
from w2s_kernels.bench.timing import by_turns, copies_for, summary

SMALL = {"rows": "3", "vocab": "700", "dim": "24", "k": "5"}
QUICK = "ours,reference"


def small(op):
    uses = CASES[op].uses
    return [word for name, value in SMALL.items() if name in uses for word in (f"--{name}", value)]


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch):
    """The machine's ceilings are not what is tested."""
    monkeypatch.setattr("w2s_kernels.bench.ceilings._BYTES", 1 << 16)
    monkeypatch.setattr("w2s_kernels.bench.measure.copies_for", lambda size, device: 2)


@pytest.mark.parametrize("op", CASES)
def test_every_op_is_measured_and_found_right(op, capsys):
    code = main(
        [op, *small(op), "--providers", QUICK, "--seconds", "0", "--check", "--device", "cpu"]
    )
    found = capsys.readouterr().out
    assert code == 0
    assert "WRONG" not in found
    assert "× allowed" in found
    assert "absent" not in found


@pytest.mark.parametrize("op", CASES)
def test_what_it_is_compared_with_computes_the_same_thing(op):
    """A comparison with somebody who does less would flatter; 16 bits would hide a difference."""
    case = CASES[op]
    size = case.sized(**{n: int(v) for n, v in SMALL.items() if n in case.uses})
    names = [
        n
        for n, p in case.providers.items()
        if p.judged and not p.strict and n not in ("compile", *peers.NAMES)
    ]
    result = measure(case, size, names, seconds=0, check=True)
    for row in result.rows:
        assert row.absent is None
        assert row.error < 1e-4


def test_a_wrong_result_ends_with_exit_code_1(monkeypatch, capsys):
    case = CASES["logprob_diff"]
    wrong = Provider(
        lambda t, u, target: case.providers["ours"].call(t, u, target) + 1e-4, strict=True
    )
    broken = dataclasses.replace(case, providers={**case.providers, "ours": wrong})
    monkeypatch.setitem(CASES, "logprob_diff", broken)
    small_run = ["logprob_diff", *small("logprob_diff"), "--seconds", "0", "--providers", "ours"]
    assert main([*small_run, "--check"]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(small_run) == 0  # nothing was compared


def test_a_provider_that_cannot_run_says_why(capsys):
    main(
        [
            "logprob",
            *small("logprob"),
            "--seconds",
            "0",
            "--providers",
            "ours,cuda,nobody",
            "--device",
            "cpu",
        ]
    )
    found = capsys.readouterr().out
    assert "cuda: absent, has no kernel for this op" in found
    assert "nobody: absent, is not a provider of this op" in found


def test_csv_and_json_hold_every_size(tmp_path, capsys):
    file = tmp_path / "deep" / "found.json"
    code = main(
        ["logprob", "--rows", "1,2", "--vocab", "64,128", "--dtype", "fp32,bf16", "--csv", "--json",
         str(file), "--seconds", "0", "--providers", QUICK]
    )  # fmt: skip
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * 2 * 2 * 2
    assert all(float(row["cold_s"]) > 0 for row in rows)
    data = json.loads(file.read_text())
    assert len(data["results"]) == 8
    assert data["stamp"]["versions"]["torch"] == torch.__version__
    assert data["stamp"]["cpu"]["model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["logprob", "--dim", "8"], "logprob has no --dim; it takes dtype, rows, vocab"),
        (["logprob", "--k", "8"], "logprob has no --k"),
    ],
)
def test_an_option_the_op_has_no_use_for_is_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["logprob", "--rows", "0"], ["logprob", "--dtype", "int8"]]
)
def test_bad_arguments_end_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_calls_take_turns_and_a_slow_one_rests():
    order = []
    calls = {name: lambda turn, name=name: order.append((name, turn)) for name in ("a", "b")}
    times = by_turns(calls, seconds=0, device="cpu", rounds=3)
    assert order == [("a", 0), ("a", 1), ("b", 0), ("b", 1),
                     ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]  # fmt: skip
    assert times["a"].rounds == 3


def test_inputs_rotate_through_more_than_the_cache():
    size = 1 << 20
    assert copies_for(size, "cpu") * size >= 3 << 20
    assert copies_for(10 << 40, "cpu") == 1


@pytest.mark.parametrize(("seconds", "turns"), [(50.0, 3), (100.0, 1)])
def test_a_call_that_takes_several_shares_has_three_turns_and_one_of_many_a_single_one(
    monkeypatch, seconds, turns
):
    monkeypatch.setattr(
        "w2s_kernels.bench.timing._one", lambda call, turn, device: seconds if call is slow else 0.5
    )

    def slow(turn):
        return turn

    times = by_turns({"slow": slow, "fast": lambda turn: turn}, seconds=20, device="cpu")
    assert times["slow"].rounds == turns
    assert times["fast"].rounds == 20


def test_statistics_are_those_of_the_values():
    found = summary([4.0, 1.0, 3.0, 2.0])
    assert (found.least, found.median, found.rounds) == (1.0, 2.5, 4)
    assert found.lower <= 2.0 <= 3.0 <= found.upper


def test_a_nan_in_one_of_two_is_an_error_and_in_both_is_none():
    nan, allowed = float("nan"), torch.ones(2)
    assert worst(torch.tensor([1.0, nan]), torch.tensor([1.0, nan]), allowed) == (0.0, 0.0)
    assert worst(torch.tensor([1.0, 2.0]), torch.tensor([1.0, nan]), allowed)[1] == float("inf")
    assert worst(torch.ones(3), torch.ones(2), allowed)[1] == float("inf")


def test_the_floor_is_the_larger_of_bytes_and_exponentials():
    case = CASES["logprob_diff"]
    result = measure(case, case.sized(rows=2, vocab=64), ["ours"], seconds=0, check=False)
    slow = dataclasses.replace(result, read=1.0, exp=1e9)
    assert slow.floor == result.least_bytes == 2 * 2 * 64 * 4
    assert dataclasses.replace(result, read=1e12, exp=1.0).floor == 2 * 2 * 64
    assert "reads at least 0.00 MB" in report.headline(result)


def test_a_stamp_marks_changed_code_and_not_the_results_written_beside_it(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    code, result = tmp_path / "code.py", tmp_path / "bench" / "results" / "one.json"
    result.parent.mkdir(parents=True)
    code.write_text("1")
    result.write_text("1")
    git("init")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-m", "all")
    monkeypatch.setattr(report, "__file__", str(code))
    clean = report.stamp()["commit"]
    result.write_text("2")
    assert report.stamp()["commit"] == clean
    code.write_text("2")
    assert report.stamp()["commit"] == f"{clean}-dirty"
