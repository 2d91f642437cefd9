"""How the result lies on the disk: names of its files, their headers, and the index."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from w2s.expo.checkpoint import WEIGHTS
from w2s.expo.shard_files import DTYPE_BITS
from w2s.expo.tasks import TensorTask

INDEX = f"{WEIGHTS}.index.json"
# What loaders look for without an index.
_SINGLE = (WEIGHTS, "adapter_model.safetensors")


@dataclass(frozen=True)
class ShardLayout:
    """A safetensors file before it is written.

    name: its plain file name. tasks: its tensors in the order of their bytes.
    """

    name: str
    tasks: tuple[TensorTask, ...]

    @cached_property
    def header(self) -> bytes:
        """The file's first bytes: length, JSON, and spaces up to a multiple of 8 bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        begin = 0
        for task in self.tasks:
            end = begin + out_nbytes(task)
            shape = list(task.aligned.shape)
            offsets = [begin, end]
            entry = {"dtype": task.out_code, "shape": shape, "data_offsets": offsets}
            entries[task.aligned.name] = entry
            begin = end
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def data_nbytes(self) -> int:
        """Bytes of the tensors alone."""
        return sum(out_nbytes(task) for task in self.tasks)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.data_nbytes


def out_nbytes(task: TensorTask) -> int:
    """Bytes of a tensor of the result."""
    return math.prod(task.aligned.shape) * DTYPE_BITS[task.out_code] // 8


def lay_out(shards: Sequence[Sequence[TensorTask]], *, like_aligned: bool) -> list[ShardLayout]:
    """Names the files of the result and orders the tensors in each.

    shards: the tensors of each file. like_aligned: each file is one of θ₁'s, and takes its name
    (`pytorch_model*.bin` becomes `model*.safetensors`); otherwise they are numbered.
    """
    filled = [shard for shard in shards if shard]
    count = len(filled)
    names = [WEIGHTS] if count == 1 else []
    names = names or [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    if like_aligned:
        like = [_safetensors_name(shard[0].aligned.shard) for shard in filled]
        if len(set(like)) == count:
            names = like
    return [
        ShardLayout(name, tuple(_aligned_in_file(shard)))
        for name, shard in zip(names, filled, strict=True)
    ]


def _safetensors_name(shard: str) -> str:
    stem = shard.removesuffix(".safetensors").removesuffix(".bin").removeprefix("pytorch_")
    return f"{stem}.safetensors"


def _aligned_in_file(tasks: Sequence[TensorTask]) -> list[TensorTask]:
    """The order as given where every tensor then begins at a multiple of its element's size, as
    readers that map the file want it; else wider elements first, otherwise as given."""
    begin = 0
    for task in tasks:
        if 8 * begin % DTYPE_BITS[task.out_code]:
            return sorted(tasks, key=lambda each: -DTYPE_BITS[each.out_code])
        begin += out_nbytes(task)
    return list(tasks)


def index_of(layouts: Sequence[ShardLayout]) -> dict[str, bytes]:
    """The index as a file name and its content; nothing for one file of a usual name."""
    if len(layouts) == 1 and layouts[0].name in _SINGLE:
        return {}
    total = sum(layout.data_nbytes for layout in layouts)
    place = {task.aligned.name: layout.name for layout in layouts for task in layout.tasks}
    index = {"metadata": {"total_size": total}, "weight_map": place}
    return {INDEX: (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()}
