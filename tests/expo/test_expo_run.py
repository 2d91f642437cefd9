"""From a recipe to a finished folder: names, index, what loads, what is refused, what is kept."""

import json
import os
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from support.tiny import llama_config, tiny_model
from support.weight_files import near, random_tensors, same_bytes, store
from w2s.errors import ExpoError
from w2s.expo.pieces import PIECE, SLOTS
from w2s.expo.recipe import Recipe
from w2s.expo.run import extrapolate_checkpoint
from w2s_kernels import _library, extrapolate, key_of

ALIGNED = random_tensors(1, torch.float32)
BASE = near(ALIGNED)
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32"}


def checkpoint(folder, tensors, shards=1, kind="safetensors"):
    store(folder, tensors, shards, kind)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)


def pair(folder, shards=1, kind="safetensors"):
    return (
        checkpoint(folder / "base", BASE, 2),
        checkpoint(folder / "aligned", ALIGNED, shards, kind),
    )


def weights(folder):
    """Names of the weight files, and all tensors."""
    files = sorted(folder.glob("*.safetensors"))
    found = {name: value for file in files for name, value in load_file(file).items()}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        assert content["metadata"] == {"total_size": sum(each.nbytes for each in found.values())}
        assert content["weight_map"].keys() == found.keys()
        for name, file in content["weight_map"].items():
            assert name in load_file(folder / file)
    return [file.name for file in files], found


def numbered(count):
    return [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("shards", "kind", "shard_size", "names"),
    [
        (1, "safetensors", None, ["model.safetensors"]),
        (3, "safetensors", None, numbered(3)),
        (1, "bin", None, ["model.safetensors"]),
        (2, "bin", None, numbered(2)),
        (1, "safetensors", 1000, numbered(3)),
        (3, "safetensors", 10**9, ["model.safetensors"]),
    ],
)
def test_files_are_cut_and_named_like_theta1_s_or_by_size(
    tmp_path, shards, kind, shard_size, names
):
    base, aligned = pair(tmp_path, shards, kind)
    recipe = Recipe(base, aligned, 0.3, "bf16", "stochastic", seed=9, shard_size=shard_size)
    report = extrapolate_checkpoint(recipe, tmp_path / "out")
    files, found = weights(tmp_path / "out")
    assert files == names
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (len(files) > 1)
    assert report.effective_alpha == pytest.approx(0.3, abs=0.05)
    wanted = {
        name: extrapolate(
            value, BASE[name], 0.3, rounding="stochastic", key=key_of(name, 9),
            out_dtype=torch.bfloat16,
        )
        for name, value in ALIGNED.items()
    }  # fmt: skip
    assert same_bytes(found, wanted)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "base", "out"]


def test_a_file_of_mixed_dtypes_keeps_every_tensor_aligned(tmp_path):
    mixed = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3).half(), "c": torch.ones(2)}
    checkpoint(tmp_path / "base", mixed)
    torch.save(mixed, tmp_path / "pytorch_model.bin")
    (tmp_path / "aligned").mkdir()
    shutil.move(tmp_path / "pytorch_model.bin", tmp_path / "aligned")
    recipe = Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.5)
    extrapolate_checkpoint(recipe, tmp_path / "out")
    assert same_bytes(load_file(tmp_path / "out" / "model.safetensors"), mixed)
    assert [*load_file(tmp_path / "out" / "model.safetensors")] == ["c", "b", "a"]


def test_the_result_loads_in_transformers_and_generates(tmp_path):
    models = [tiny_model(llama_config(tie_word_embeddings=True), seed) for seed in (0, 1)]
    for model, name in zip(models, ("base", "aligned"), strict=True):
        model.save_pretrained(tmp_path / name, max_shard_size="20KB")
    recipe = Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.25)
    extrapolate_checkpoint(recipe, tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    one, two = (dict(model.named_parameters()) for model in reversed(models))
    for name, value in found.named_parameters():
        assert torch.equal(value, extrapolate(one[name].detach(), two[name].detach(), 0.25)), name
    ids = found.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert ids.shape[1] > 3


def stop_when(share):
    def on_progress(done, total):
        if done > share * total:
            raise KeyboardInterrupt

    return on_progress


def test_resume_does_not_touch_finished_shards_and_gives_the_same_report(tmp_path, monkeypatch):
    base, aligned = pair(tmp_path, shards=3)
    recipe = Recipe(base, aligned, 0.3)
    whole = extrapolate_checkpoint(recipe, tmp_path / "whole")
    monkeypatch.setattr("w2s.expo.stream._TICK", 0.0)  # every step of the work is told
    with pytest.raises(KeyboardInterrupt):
        extrapolate_checkpoint(recipe, tmp_path / "out", on_progress=stop_when(0.9))
    finished = {
        path.name: path.stat().st_ino for path in (tmp_path / "out.partial").glob("*.safetensors")
    }
    assert finished
    told = []
    report = extrapolate_checkpoint(
        recipe, tmp_path / "out", resume=True, on_progress=lambda *seen: told.append(seen)
    )
    assert told[0][0] >= sum((tmp_path / "out" / name).stat().st_size for name in finished)
    assert told[-1][0] == told[-1][1]
    for name, number in finished.items():
        assert (tmp_path / "out" / name).stat().st_ino == number
    assert report.as_json() == whole.as_json()
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_resume_with_another_recipe_or_input_is_refused_by_name(tmp_path, monkeypatch):
    base, aligned = pair(tmp_path, shards=3)
    monkeypatch.setattr("w2s.expo.stream._TICK", 0.0)
    with pytest.raises(KeyboardInterrupt):
        extrapolate_checkpoint(
            Recipe(base, aligned, 0.3), tmp_path / "out", on_progress=stop_when(0.9)
        )
    with pytest.raises(ExpoError, match=r"recipe alpha was 0\.3 .* is 0\.4 now"):
        extrapolate_checkpoint(Recipe(base, aligned, 0.4), tmp_path / "out", resume=True)
    os.utime(tmp_path / "base" / numbered(2)[1], ns=(1, 1))
    with pytest.raises(ExpoError, match=r"base model-00002-of-00002\.safetensors mtime was"):
        extrapolate_checkpoint(Recipe(base, aligned, 0.3), tmp_path / "out", resume=True)
    assert [*(tmp_path / "out.partial").glob("*.safetensors")]


def cut(path):
    os.truncate(path, path.stat().st_size - 5)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def loop(path):
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (cut, "model.safetensors.index.json"),
        (loop, "model.safetensors.index.json"),
        (cut, "model-00002-of-00003.safetensors"),
        (folder_instead, "model-00002-of-00003.safetensors"),
        (loop, "model-00003-of-00003.safetensors"),
    ],
)
@pytest.mark.parametrize("side", ["base", "aligned"])
def test_damaged_input_is_one_sentence_and_leaves_nothing(tmp_path, harm, file, side):
    checkpoint(tmp_path / "base", BASE, 3)
    checkpoint(tmp_path / "aligned", ALIGNED, 3)
    harm(tmp_path / side / file)
    recipe = Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.3)
    with pytest.raises(ExpoError, match=file.replace(".", r"\.")) as caught:
        extrapolate_checkpoint(recipe, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "base"]


def test_a_tokenizer_that_cannot_be_read_shows_before_the_work(tmp_path):
    base, aligned = pair(tmp_path)
    (tmp_path / "aligned" / "tokenizer.model").symlink_to("gone")
    told = []
    with pytest.raises(ExpoError, match=r"tokenizer\.model"):
        extrapolate_checkpoint(
            Recipe(base, aligned, 0.3), tmp_path / "out", on_progress=lambda *seen: told.append(1)
        )
    assert not told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "base"]


def test_a_file_that_shrinks_during_the_work_is_named_and_nothing_is_left(tmp_path):
    base, aligned = pair(tmp_path, shards=3)

    def shrink(done, total):
        path = tmp_path / "aligned" / numbered(3)[2]
        os.truncate(path, 100)

    with pytest.raises(ExpoError, match=r"model-00003-of-00003\.safetensors .* was changed while"):
        extrapolate_checkpoint(Recipe(base, aligned, 0.3), tmp_path / "out", on_progress=shrink)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned", "base"]


def test_a_taken_name_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(ExpoError, match="out is there already"):
        extrapolate_checkpoint(Recipe("gone", "gone too", 0.3), tmp_path / "out")


def anonymous():
    """MiB of anonymous memory of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tensors(tmp_path):
    rows = 8000  # × 4096 × 4 bytes are 125 MiB in each file
    big = {"w": torch.full((rows, 4096), 0.5)}
    for name in ("base", "aligned"):
        checkpoint(tmp_path / name, big)
    del big
    recipe = Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.3, alpha_for=(("w", 0.2),))
    before, peak, done = anonymous(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        extrapolate_checkpoint(recipe, tmp_path / "out")
    finally:
        done.set()
        watcher.join()
    buffers = 3 * SLOTS * PIECE / 2**20
    assert buffers == 72
    # Beside them threads, and what the op takes: much only where there is no compiled kernel.
    assert peak[0] < buffers + (64 if _library.load() else 256)


def test_progress_comes_from_the_calling_thread(tmp_path):
    base, aligned = pair(tmp_path)
    seen = set()
    extrapolate_checkpoint(
        Recipe(base, aligned, 0.3), tmp_path / "out",
        on_progress=lambda done, total: seen.add(threading.get_ident()),
    )  # fmt: skip
    assert seen == {threading.get_ident()}
