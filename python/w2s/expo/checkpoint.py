"""`Checkpoint`: the tensors of a folder by headers and index alone, and `open_checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from w2s.errors import ExpoError
from w2s.expo.pickled import read_pickled
from w2s.expo.shard_files import ShardFile, damaged, load_json, read_safetensors
from w2s.expo.tasks import StoredTensor

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"


@dataclass
class Checkpoint:
    """A checkpoint on disk; nothing of its tensors is in memory.

    folder: where it lies. who: whose it is, in messages.
    tensors: by name, in the order of the files and of the bytes within each.
    shards: plain names of the weight files, in order. files: the same, as they were when opened.
    metadata: of the safetensors headers, those of earlier files first.
    tied: names that share another tensor's bytes (`.bin` files only; safetensors has none), and
      the first name of those bytes. Both names are in `tensors`.
    """

    folder: Path
    who: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)
    files: list[ShardFile] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, object]:
        """What tells its weights from others, as JSON; costs nothing, for no weight is read."""
        return {file.path.name: file.identity() for file in self.files}


def open_checkpoint(
    folder: Path, who: str, *, weights: str = WEIGHTS, pickled: str = PICKLED
) -> Checkpoint:
    """Opens a folder's weight files: one safetensors file, several with an index, or `.bin` files.

    The first of these that is there counts, as in transformers. `weights` and `pickled` are the
    names of an unsharded checkpoint's file; an index has such a name and `.index.json` after it.

    Raises:
        ExpoError: no weights are there; a file is missing, cut off, unreadable, no regular file, a
            git-lfs pointer or damaged; an index is no JSON or names a file outside of the folder;
            a `.bin` file holds anything that is not a tensor. Names the file or the tensor.
    """
    if not folder.is_dir():
        raise ExpoError(f"{folder} of {who} is no folder; name one that holds {weights}")
    opened = Checkpoint(folder, who)
    for name in (weights, f"{weights}.index.json", pickled, f"{pickled}.index.json"):
        if os.path.lexists(folder / name):  # a link that leads nowhere is an error, not absence
            if name.endswith(".index.json"):
                _add_indexed(opened, folder / name)
            else:
                _add(opened, name, {})
            return opened
    raise ExpoError(
        f"{who} has no weights: there is no {weights} and no {pickled} in {folder}; copy or "
        "download the weight files into it"
    )


def _add_indexed(to: Checkpoint, index: Path) -> None:
    place = _weight_map(index, to.who)
    shards = sorted(set(place.values()))
    absent = [name for name in shards if not os.path.lexists(to.folder / name)]
    if absent:
        raise ExpoError(
            f"{to.who} lacks {len(absent)} of its {len(shards)} weight files, the first "
            f"{absent[0]}; copy or download the missing files into {to.folder}"
        )
    for shard in shards:
        _add(to, shard, place)
    for name, shard in place.items():
        if name not in to.tensors:
            raise damaged(to.folder / shard, to.who, f"lacks {name}, which {index.name} puts in it")


def _weight_map(index: Path, who: str) -> dict[str, str]:
    """Tensor name -> plain name of its file."""
    content = load_json(index, who)
    place = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(place, dict) or not place:
        raise damaged(index, who, "has no weight_map")
    for name, shard in place.items():
        if not isinstance(shard, str) or not _plain(shard):
            what = f"puts {name} in {shard!r}, which is no plain file name"
            raise damaged(index, who, what, "shards must lie in the folder itself")
    return place


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _add(to: Checkpoint, shard: str, place: dict[str, str]) -> None:
    """Adds a file's tensors, but for those that the index puts in another."""
    path = to.folder / shard
    found: Sequence[StoredTensor]
    if shard.endswith(".bin"):
        pickled = read_pickled(path, to.who)
        file, found = pickled.file, pickled.tensors
        to.tied.update(pickled.tied)
    else:
        file, found, metadata = read_safetensors(path, to.who)
        to.metadata = metadata | to.metadata
    to.shards.append(shard)
    to.files.append(file)
    for tensor in found:
        if place.get(tensor.name, shard) != shard:
            continue
        if tensor.name in to.tensors:
            other = to.tensors[tensor.name].shard
            raise damaged(path, to.who, f"has {tensor.name} once more, it is in {other} already")
        to.tensors[tensor.name] = tensor
