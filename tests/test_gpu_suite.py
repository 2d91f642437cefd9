"""`make gpu` and its neighbours, tried on a CPU with tiny sizes and on figures made up here.

So that the first hour on a GPU is not spent on what could have been found without one.
"""

import json
import sys
import time

import pytest
import torch
from gpu_suite import commands, device_ceilings, plots, sizes, tune
from gpu_suite.__main__ import main
from gpu_suite.page import page
from gpu_suite.parts import RUN, PartFailed, Run, run_part
from gpu_suite.store import Store, read
from gpu_suite.titles import PARTS
from gpu_suite.verdicts import verdicts

from support.gpu_figures import figures
from w2s_kernels.bench.__main__ import CASES
from w2s_kernels.bench.case import Provider, Size


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The machine's ceilings are not what is tested; one op at one size stands for all."""
    monkeypatch.setattr("w2s_kernels.bench.ceilings._BYTES", 1 << 16)
    one = sizes.Measured(
        "logprob_diff",
        Size(4096, 128256, dtype=torch.bfloat16, device="cuda"),
        "ours,eager,liger",
        "92 % of reading",
    )
    monkeypatch.setattr(sizes, "LOGITS", (one,))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "found.json", "cpu")


def test_every_part_has_a_title_and_can_be_run():
    assert list(RUN) == list(PARTS)


@pytest.mark.parametrize("table", ["LOGITS", "FEW_ROWS", "MANY_ROWS", "STEP"])
def test_every_size_is_of_an_op_that_has_its_providers(table):
    for measured in getattr(sizes, table):
        asked = measured.providers.split(",")
        assert set(asked) <= set(CASES[measured.op].providers)
        assert {"ours", "reference"} & set(asked)
        assert measured.size.device == "cuda"


@pytest.mark.parametrize("part", ["ceilings", "logits"])
def test_a_part_runs_and_its_figures_are_on_the_page(part, store):
    assert run_part(part, store, "cpu", tiny=True) == "done"
    data = read(store.path)
    assert data["parts"][part]["state"] == "done"
    shown = page(data)
    assert f"| {part} | done |" in shown
    if part == "logits":
        assert "| logprob_diff | N=4 V=700 bfloat16 | ours |" in shown
        assert "liger: liger-kernel is not installed (logprob_diff)" in shown
        assert any("costs the host" in verdict.target for verdict in verdicts(data))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["few rows", "many rows", "step", "tests", "search gpt2"])
def test_the_other_parts_run_as_well(part, store):
    assert run_part(part, store, "cpu", tiny=True) == "done"
    page(read(store.path))


def test_a_wrong_result_fails_its_part_and_is_kept(store, monkeypatch):
    right = CASES["logprob_diff"].providers["ours"]
    wrong = Provider(lambda t, u, target: right.call(t, u, target) + 1e-3, strict=True)
    monkeypatch.setitem(CASES["logprob_diff"].providers, "ours", wrong)
    state = run_part("logits", store, "cpu", tiny=True)
    assert state.startswith("failed: beyond the allowed error: logprob_diff")
    assert " WRONG |" in page(read(store.path))


def test_somebody_elses_kernel_that_raises_is_absent_with_its_reason(store, monkeypatch):
    def raises(*inputs):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setitem(CASES["logprob_diff"].providers, "liger", Provider(raises))
    assert run_part("logits", store, "cpu", tiny=True) == "done"
    assert "liger: raised RuntimeError: no kernel image (logprob_diff)" in page(read(store.path))


def test_what_was_found_before_a_crash_is_on_disk(store, monkeypatch):
    def crash(run: Run) -> None:
        run.store.add("left out", what="the rest", why="of the crash")
        assert read(store.path)["parts"]["logits"]["state"] == "cut off"
        raise OSError("gone")

    monkeypatch.setitem(RUN, "logits", crash)
    assert run_part("logits", store, "cpu") == "failed: OSError: gone"
    assert read(store.path)["parts"]["logits"]["entries"][0]["what"] == "the rest"


def test_a_part_that_runs_again_replaces_its_own_findings_alone(store):
    run_part("ceilings", store, "cpu", tiny=True)
    again = Store(store.path, "cpu")
    run_part("sanitizer", again, "cpu", tiny=True)
    data = read(store.path)
    assert set(data["parts"]) == {"ceilings", "sanitizer"}
    assert len(data["parts"]["ceilings"]["entries"]) == 1


def test_figures_of_another_device_are_not_mixed_in(store):
    run_part("ceilings", store, "cpu", tiny=True)
    data = json.loads(store.path.read_text())
    store.path.write_text(json.dumps({**data, "device": "NVIDIA X"}))
    with pytest.raises(ValueError, match="NVIDIA X"):
        Store(store.path, "cpu")


def test_a_step_for_which_no_time_is_left_is_left_out_and_named(store):
    store.begin("logits")
    run = Run(store, "cpu", False, time.monotonic() + 50)
    assert run.enough(10, "a short one")
    assert not run.enough(60, "a long one")
    (entry,) = read(store.path)["parts"]["logits"]["entries"]
    assert entry["what"] == "a long one"


def test_a_command_that_outlasts_its_time_is_stopped_with_its_children():
    script = "import subprocess, sys, time\nprint('begun', flush=True)\n" \
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"  # fmt: skip
    began = time.monotonic()
    done = commands.run([sys.executable, "-c", script], 2.0)
    assert time.monotonic() - began < 30
    assert done.code is None
    assert "begun" in done.tail
    assert commands.run([sys.executable, "-c", "raise SystemExit(4)"], 30).code == 4


def test_without_a_device_the_command_says_what_it_would_do(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main([]) == 3
    said = capsys.readouterr().err
    assert "no CUDA device: nothing was run" in said
    assert all(title in said for title in PARTS.values())
    assert tune.main([]) == 3
    assert "no CUDA device: nothing was tuned" in capsys.readouterr().err


def test_trying_the_suite_on_a_cpu_needs_a_file_of_its_own(capsys):
    assert main(["--device", "cpu", "--tiny"]) == 2
    assert "--out" in capsys.readouterr().err


def test_the_devices_ceilings_are_positive_rates():
    found = device_ceilings.measure("cpu", tiny=True, seconds=0.1)
    assert min(found.read, found.copy, found.product, found.launch) > 0


def test_targets_are_judged_by_the_figures():
    data = figures()
    found = {(v.target, v.size): v for v in verdicts(data)}
    diff = found[
        ("logprob_diff: at least 92 % of the reading bandwidth", "N=4096 V=128256 bfloat16")
    ]
    assert diff.reached
    assert diff.figure == "95.0%"
    head = found[
        ("linear_logprob_diff: at most 1.20 × the bare products", "N=512 V=128256 D=4096 bfloat16")
    ]
    assert not head.reached
    assert head.figure == "1.50 ×"
    assert found[
        ("search: at least 10 × as fast as the public way", "7b bfloat16, 8 prompts")
    ].reached
    assert not found[
        ("logprob_diff: a warm call costs the host at most 15 µs over a launch", "")
    ].reached


def test_a_figure_that_is_worse_misses_its_target():
    data = figures(slower=1.1)
    missed = [v for v in verdicts(data) if v.target.startswith("logprob_diff: at least 92 %")]
    assert [v.reached for v in missed] == [False]
    assert "**missed**" in page(data)


def test_the_report_draws_both_figures_and_a_page_that_shows_them(tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    file = tmp_path / "made-up.json"
    file.write_text(json.dumps(figures()))
    assert plots.main([str(file), "-o", str(tmp_path / "docs")]) == 0
    shown = (tmp_path / "docs" / "gpu_made-up.md").read_text()
    for name in ("roofline", "bars"):
        picture = tmp_path / "docs" / f"gpu_made-up_{name}.png"
        assert picture.stat().st_size > 5000
        assert f"({picture.name})" in shown


def test_there_is_nothing_to_draw_before_a_gpu_was_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "FOLDER", tmp_path)
    assert plots.main([]) == 2
    assert "make gpu" in capsys.readouterr().err


def test_a_setting_must_win_by_a_margin_to_replace_the_committed_one():
    times = {"now": 100.0, "a little faster": 99.0, "faster": 90.0, "cannot run": None}
    assert tune.fastest(["a little faster"], "now", times.get) == "now"
    assert tune.fastest(["cannot run", "a little faster", "faster"], "now", times.get) == "faster"
    assert tune.fastest(["faster"], "cannot run", times.get) == "faster"


def test_tables_are_written_one_entry_a_line_and_read_back_the_same():
    table = {
        "80": {"warps": {"16": 8, "32": 8}, "tile": {"16": {str(n): [n] * 5 for n in range(9)}}}
    }
    text = tune.dumps(table)
    assert json.loads(text) == table
    assert max(map(len, text.splitlines())) <= 100
    assert '    "warps": {"16": 8, "32": 8},' in text.splitlines()


def test_a_new_architecture_starts_from_the_newest_before_it():
    table = {"80": {"warps": 4}, "90": {"warps": 8}}
    tune.entry_for(table, 100)["warps"] = 16
    assert table == {"80": {"warps": 4}, "90": {"warps": 8}, "100": {"warps": 16}}


def test_a_failed_part_ends_the_command_with_1(tmp_path, monkeypatch):
    def fail(run: Run) -> None:
        raise PartFailed("it did not work")

    monkeypatch.setitem(RUN, "ceilings", fail)
    out = tmp_path / "found.json"
    assert main(["--device", "cpu", "--tiny", "--part", "3", "--out", str(out)]) == 1
    assert "failed: it did not work" in out.with_suffix(".md").read_text()
