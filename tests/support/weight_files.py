"""Small checkpoints of random tensors, stored in every way that `w2s.expo` reads."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from w2s.expo.checkpoint import Checkpoint, open_checkpoint
from w2s.expo.layout import lay_out
from w2s.expo.stream import stream
from w2s.expo.tasks import FLOATING, TensorTask


def random_tensors(seed=0, dtype=torch.bfloat16, sizes=((50, 24), (24, 72), (24,), (3, 5, 7), ())):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer.{n}.weight": torch.randn(size, generator=generator).to(dtype)
        for n, size in enumerate(sizes)
    }


def near(tensors, seed=1, scale=0.05):
    """The same tensors and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.double() + scale * torch.randn(value.shape, generator=generator)).to(value)
        if value.is_floating_point() else value
        for name, value in tensors.items()
    }  # fmt: skip


def store(folder: Path, tensors, shards=1, kind="safetensors") -> Checkpoint:
    """Saves them in a new folder, in this many files, and opens it."""
    folder.mkdir(parents=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = list(tensors)
    place = {}
    for number in range(shards):
        some = {name: tensors[name] for name in names[number::shards]}
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{kind}" if shards > 1 else f"{stem}.{kind}"
        (save_file if kind == "safetensors" else torch.save)(some, folder / file)
        place |= dict.fromkeys(some, file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": place}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return open_checkpoint(folder, folder.name)


def tasks_of(base: Checkpoint, aligned: Checkpoint, alpha=0.3, out_code=None):
    """Every floating tensor extrapolated, every other copied."""
    return [
        TensorTask(
            tensor, base.tensors[name] if tensor.code in FLOATING else None, alpha,
            (out_code if tensor.code in FLOATING else None) or tensor.code,
        )
        for name, tensor in aligned.tensors.items()
    ]  # fmt: skip


def like_aligned(tasks, aligned: Checkpoint):
    """The layout of a result that is cut like θ₁."""
    shards = [[task for task in tasks if task.aligned.shard == name] for name in aligned.shards]
    return lay_out(shards, like_aligned=True)


class Folder:
    """Stands for `Staging` where no run is ever interrupted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.finished = folder, {}

    def add(self, name, sums):
        self.finished[name] = list(sums)


def streamed(folder: Path, layouts, **options):
    """Streams into a folder; (tensors, sums by name)."""
    to = Folder(folder)
    stream(layouts, to, **options)
    found = {}
    for layout in layouts:
        found |= load_file(folder / layout.name)
    return found, {each.name: each for sums in to.finished.values() for each in sums}


def same_bytes(one, other):
    """Whether two dictionaries of tensors hold the same bits under the same names."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        raw = value.contiguous().view(-1).view(torch.uint8)
        assert torch.equal(raw, other[name].contiguous().view(-1).view(torch.uint8)), name
    return True
