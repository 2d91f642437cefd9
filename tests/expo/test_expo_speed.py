"""`bench/expo/expo_speed.py`: what it measures, what it refuses, and its section of the page."""

import copy
import json
import os
import shutil
import sys
from types import SimpleNamespace

import expo_speed
import page_cache
import pytest
import torch
from exactness import units_away
from made_pair import Size, make_pair
from safetensors.torch import load_file, save_file
from watched import WorkerFailed, run

from w2s_kernels.bench.page import main as page

SMALL = Size(2, vocab=1000, hidden=256, inner=384)
STAMP = {
    "date": "2026-01-02 03:04 UTC", "commit": "abc1234567",
    "cpu": {"model": "Some CPU", "machine": "x86_64", "cores": 2}, "cuda": [], "isa": "avx512",
    "threads": 2, "versions": {"torch": "2.13.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), SMALL)


def extrapolated(pair, out, alpha, change=lambda tensor: tensor):
    """A result in float64, rounded by torch."""
    out.mkdir()
    files = [load_file(folder / "model-00001-of-00001.safetensors") for folder in pair]
    result = {
        name: change((one.double() + alpha * (one.double() - files[0][name].double())).bfloat16())
        for name, one in files[1].items()
    }
    save_file(result, out / "model.safetensors")
    return out


def test_a_made_pair_is_a_llama_of_the_size_asked_for(pair):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pair[1])
    assert sum(2 * parameter.numel() for parameter in model.parameters()) == SMALL.nbytes
    assert model.lm_head.weight is model.model.embed_tokens.weight
    delta = model.model.layers[0].mlp.up_proj.weight.float()
    delta = (
        delta
        - AutoModelForCausalLM.from_pretrained(pair[0]).model.layers[0].mlp.up_proj.weight.float()
    )
    assert 0.9e-4 < float(delta.std()) < 1.5e-4  # rounding to bf16 adds its share


def test_the_full_pair_is_two_gigabytes_at_least_and_its_embedding_the_largest_tensor():
    size = Size.of_gigabytes(2.4)
    assert 2.4e9 <= size.nbytes < 2.6e9
    assert size.largest == 2 * 128256 * 2048


def test_right_results_are_within_half_a_unit_and_wrong_ones_are_not(pair, tmp_path):
    right = extrapolated(pair, tmp_path / "right", 0.3)
    assert 0.4 < units_away(*pair, right, 0.3) <= 0.5 * (1 + 1e-6)
    assert units_away(*pair, right, 0.4) > 0.5
    unrounded = extrapolated(pair, tmp_path / "fp32", 0.3, torch.Tensor.float)
    with pytest.raises(ValueError, match=r"is torch\.float32"):
        units_away(*pair, unrounded, 0.3)


@pytest.mark.parametrize("way", ["plain", "plain in threads"])
def test_plain_copying_writes_the_aligned_checkpoint_again(pair, tmp_path, way):
    task = {"base": str(pair[0]), "aligned": str(pair[1]), "out": str(tmp_path / "out")}
    taken = run(sys.executable, way, task, lambda: None, watch=True)
    for file in pair[1].glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert 0 < taken.call < taken.process
    assert taken.anonymous is not None
    assert taken.anonymous < 100 << 20


def test_a_worker_that_fails_says_what_it_said(pair, tmp_path):
    task = {"base": str(tmp_path / "gone"), "aligned": str(pair[1]), "out": str(tmp_path / "out")}
    with pytest.raises(WorkerFailed, match="No such file"):
        run(sys.executable, "plain", task, lambda: None, watch=False)
    with pytest.raises(WorkerFailed, match="no such way"):
        run(sys.executable, "no such way", task, lambda: None, watch=True)


def test_heated_files_are_in_the_page_cache(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    page_cache.heat([path])
    with open(path, "rb") as file:
        assert page_cache.cached(file.fileno()) == 1.0


def test_files_that_stay_in_the_page_cache_are_not_called_cold(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: None)
    with pytest.raises(page_cache.StillCached, match=r"file is still 100%"):
        page_cache.cool([path])


def test_the_command_deletes_what_it_made_and_writes_what_the_page_shows(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(page_cache, "cool", page_cache.heat)  # not every file system can
    results = tmp_path / "results"
    options = ["--quick", "--folder", str(tmp_path), "--ways", "plain", "mergekit"]
    assert expo_speed.main([*options, "--json", str(results / "expo.json")]) == 0
    assert "| plain | hot |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert page([str(results), "-o", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "| plain | hot |" in text
    assert "Absent: mergekit (no --mergekit)." in text


def test_a_wrong_result_ends_the_command_with_1_and_no_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(expo_speed.WAYS, "plain", expo_speed.Way("plain", (), 0.5))
    options = ["--quick", "--folder", str(tmp_path), "--ways", "plain"]
    assert expo_speed.main([*options, "--json", str(tmp_path / "expo.json")]) == 1
    assert "no figures: plain is " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=9_000_000_000))
    with pytest.raises(SystemExit) as ended:
        expo_speed.main(["--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert "has 9.0 GB free; 9.9 GB are needed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def stored(**changed):
    """A result file: ours as fast as 0.8 of plain copying hot, and faster than it cold."""

    def way(hot, cold, peak, units):
        runs = {"hot": hot, "cold": cold}
        found = {s: {"call": c, "process": [x + 3 for x in c]} for s, c in runs.items()}
        return found | {"peak_anonymous": peak, "peak_resident": peak, "units": units}

    expo = {
        "alpha": 0.3, "dtype": "bfloat16", "rounds": 3, "checkpoint_bytes": 2_400_000_000,
        "largest_tensor": 525_336_576, "absent": {},
        "size": {"layers": 16, "vocab": 128256, "hidden": 2048, "inner": 8192},
        "ways": {
            "plain": way([4.0, 5.0, 6.0], [8.0, 9.0, 10.0], 33_600_000, None),
            "nearest": way([5.0, 6.25, 8.0], [4.0, 9.0, 10.0], 90_000_000, 0.5),
            "mergekit": way([20.0, 20.0, 20.0], [40.0, 50.0, 60.0], 4_000_000_000, 2.45),
        },
    }  # fmt: skip
    return {"stamp": STAMP, "expo": expo | changed}


def shown(tmp_path, data):
    results = tmp_path / "results"
    results.mkdir(exist_ok=True)
    (results / "expo_speed.json").write_text(json.dumps(data))
    code = page([str(results), "-o", str(tmp_path / "page.md")])
    return code, (tmp_path / "page.md").read_text() if code == 0 else ""


def test_the_page_shows_rates_shares_of_plain_copying_and_peaks(tmp_path):
    _, text = shown(tmp_path, stored())
    assert "## Extrapolating checkpoints (ExPO)" in text
    assert (
        "| w2s expo, nearest | hot | 6.25 (5.00 to 8.00) | 9.2 | 1.15 | 80% (75% to 80%) " in text
    )
    assert "|  | cold | 9.00 (4.00 to 10.00) | 12.0 | 0.80 | 100% (100% to 200%) |  |  |" in text
    assert (
        "| mergekit | hot | 20.00 (20.00 to 20.00) | 23.0 | 0.36 | 25% (20% to 30%) | 4000 MB"
        in text
    )
    assert "--gigabytes 2.39 --ways plain nearest mergekit --mergekit build/peers" in text


def test_the_page_holds_extrapolation_to_its_targets(tmp_path):
    _, text = shown(tmp_path, stored())
    assert "2.4 GB, nearest | 2 | expo_speed | 80% hot (75% to 80%) | **missed** |" in text
    assert "2.4 GB, nearest | 2 | expo_speed | 100% cold (100% to 200%) | reached |" in text
    assert "2.4 GB, nearest | 2 | expo_speed | 90 MB of 2311 MB | reached |" in text


def test_the_page_refuses_a_damaged_file_by_name(tmp_path, capsys):
    for change in (
        lambda expo: expo.pop("rounds"),
        lambda expo: expo["ways"].clear(),
        lambda expo: expo["ways"]["plain"]["hot"]["call"].pop(),
        lambda expo: expo["ways"]["nearest"].update(peak_anonymous=None),
    ):
        data = copy.deepcopy(stored())
        change(data["expo"])
        assert shown(tmp_path, data)[0] == 2
        assert "expo_speed.json is not a result file" in capsys.readouterr().err
