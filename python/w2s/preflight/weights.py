"""What the files of a checkpoint say without being loaded: names, shapes, dtypes, completeness."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from w2s.preflight.finding import Finding, error

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FLOATING = {"F64", "F32", "F16", "BF16"}
# A header longer than this is no header (the format's own limit).
_HEADER_LIMIT = 100_000_000
# Bytes of a tensor that are compared at three places of it.
_SAMPLE = 4096


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file; `begin` and `end` are bytes of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def floating(self) -> bool:
        """Whether it is a plain floating-point tensor, not a quantized one."""
        return self.dtype in _FLOATING


@dataclass
class Weights:
    """The tensors of a checkpoint by name, and what is wrong with its files."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def find(self, name: str) -> StoredTensor | None:
        """A parameter by its name in the model; checkpoints may leave the model's prefix out."""
        while name not in self.tensors:
            _, dot, name = name.partition(".")
            if not dot:
                return None
        return self.tensors[name]


def read_weights(folder: Path, who: str, file: str = _SINGLE) -> Weights:
    """Reads the headers of a folder's safetensors files; no tensor is loaded.

    `file` is the name of an unsharded checkpoint. Pickled checkpoints are only seen to be there.
    """
    found = Weights()
    index = folder / f"{file}.index.json"
    if index.is_file():
        for name in _shards(index, who, found):
            _read_file(folder / name, who, found)
    elif (folder / file).is_file():
        _read_file(folder / file, who, found)
    elif not any((folder / name).is_file() for name in _PICKLED):
        found.findings.append(
            error(
                "weights-missing",
                f"{who} has no weights: there is no {file} and no {_PICKLED[0]} in the folder",
                "copy or download the weight files into it",
            )
        )
    return found


def _shards(index: Path, who: str, found: Weights) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        found.findings.append(
            error(
                "weights-damaged",
                f"{index.name} of {who} cannot be read ({type(reason).__name__}: {reason})",
                "download the file again",
            )
        )
        return []
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        found.findings.append(
            error(
                "weights-missing",
                f"{who} lacks {len(missing)} of its {len(names)} weight files, the first "
                f"{missing[0]}",
                "copy or download the missing files into the folder",
            )
        )
    return [name for name in names if name not in missing]


def _read_file(path: Path, who: str, found: Weights) -> None:
    what = ""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT or size < 8:
                file.seek(0)
                pointer = file.read(7) == b"version"  # text that git-lfs leaves in a file's place
                what = "is a git-lfs pointer" if pointer else "is no safetensors file"
            elif size < 8 + length:
                what = f"is cut off: {size} bytes, and its header alone has {8 + length}"
            else:
                header = json.loads(file.read(length))
                end = _add_tensors(header, path, 8 + length, found)
                if end != size:
                    short = "is cut off" if size < end else "has more bytes than its header says"
                    what = f"{short}: {size} bytes instead of {end}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        what = f"cannot be read ({type(reason).__name__}: {reason})"
    if what:
        advice = "run `git lfs pull`" if "git-lfs" in what else "download or copy the file again"
        found.findings.append(error("weights-damaged", f"{path.name} of {who} {what}", advice))


def _add_tensors(header: dict[str, dict[str, object]], path: Path, data: int, to: Weights) -> int:
    """Adds the header's tensors; returns where the last one ends in the file."""
    last = data
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (data + int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
        shape = tuple(int(size) for size in entry["shape"])  # type: ignore[attr-defined]
        to.tensors[name] = StoredTensor(path, str(entry["dtype"]), shape, begin, end)
        last = max(last, end)
    return last


def same_weights(one: Weights, other: Weights) -> bool:
    """Whether two checkpoints hold the same tensors, by a few kilobytes of each tensor.

    Training changes every tensor it touches nearly everywhere, so three places of each are enough.
    """
    if not one.tensors or one.tensors.keys() != other.tensors.keys():
        return False
    return all(_same_tensor(one.tensors[name], other.tensors[name]) for name in one.tensors)


def _same_tensor(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.file.samefile(other.file) and one.begin == other.begin:
        return True
    length = one.end - one.begin
    places = sorted({0, max(0, length // 2), max(0, length - _SAMPLE)})
    return all(
        mine == theirs
        for mine, theirs in zip(_read_at(one, places), _read_at(other, places), strict=True)
    )


def _read_at(tensor: StoredTensor, places: list[int]) -> Iterator[bytes]:
    with tensor.file.open("rb") as file:
        for place in places:
            file.seek(tensor.begin + place)
            yield file.read(min(_SAMPLE, tensor.end - tensor.begin - place))
