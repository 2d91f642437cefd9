"""PyTorch's own weight files (`pytorch_model*.bin`): found by mapping them, read like any other.

No pickle is executed.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from w2s.expo.shard_files import FileTensor, ShardFile, damaged, opening, reading, regular

_ZIP = b"PK\x03\x04"
_SAVE_AGAIN = "convert it to safetensors, or load it in torch and save it again"
_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class MappedTensor:
    """A tensor of a mapped file (a `StoredTensor`): a view with strides, read row by row."""

    name: str
    code: str
    data: torch.Tensor
    file: ShardFile

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()

    @property
    def shard(self) -> str:
        return self.file.path.name

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fills `buffer` with the tensor's row-major bytes from `begin` on."""
        if not len(buffer):
            return
        # A file cut short under its mapping would end the process, not raise.
        with reading(self.file, self.name):
            self.file.require_unchanged(self.file.path.stat(), self.name)
        wanted = torch.frombuffer(buffer, dtype=torch.uint8)
        wanted.copy_(_row_major(self.data, begin, begin + len(buffer)))


def _row_major(data: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Bytes [begin, end) of the tensor as if it were contiguous; copies only rows they are of."""
    while not data.is_contiguous() and data.dim() > 1:
        row = data[0].numel() * data.element_size()
        first, last = begin // row, -(-end // row)
        begin, end = begin - first * row, end - first * row
        data = data[first:last]
        if last - first > 1:
            break
        data = data[0]
    return data.contiguous().view(-1).view(torch.uint8)[begin:end]


@dataclass
class PickledFile:
    """What is in a `torch.save`d dictionary, in its order.

    tied: names of tensors that are the very same bytes as an earlier one, and that one's name.
    """

    file: ShardFile
    tensors: list[FileTensor | MappedTensor]
    tied: dict[str, str]


def read_pickled(path: Path, who: str) -> PickledFile:
    """Finds the tensors of a `torch.save`d dictionary; their bytes stay on the disk.

    Raises:
        ExpoError: the file is missing or damaged, holds anything that is not a plain tensor, or is
            of torch's format before 1.6, which cannot be mapped; names the file.
    """
    with opening(path, who):
        status = regular(path, who)
        with path.open("rb") as stream:
            start = stream.read(7)
        if start == b"version":
            raise damaged(path, who, "is a git-lfs pointer", "run `git lfs pull`")
        if not start.startswith(_ZIP):
            raise damaged(path, who, "is not of torch's zip format", _SAVE_AGAIN)
    loaded = _load(path, who)
    if not isinstance(loaded, dict):
        raise damaged(path, who, f"holds a {type(loaded).__name__}, no dictionary", _SAVE_AGAIN)
    for name, value in loaded.items():
        _require_plain(path, who, name, value)
    described = [f"{n}\0{v.dtype}\0{list(v.shape)}\0{v.stride()}" for n, v in loaded.items()]
    digest = hashlib.sha256("\0".join(described).encode()).hexdigest()[:32]
    file = ShardFile(path, who, status.st_size, status.st_mtime_ns, digest)
    mappings = _mappings()
    tensors = [_stored(name, value.detach(), file, mappings) for name, value in loaded.items()]
    return PickledFile(file, tensors, _tied(loaded))


def _stored(
    name: str, data: torch.Tensor, file: ShardFile, mappings: list[tuple[int, int, int]]
) -> FileTensor | MappedTensor:
    """Reading a file costs half of what reading its mapping does, and a file that is cut short
    meanwhile raises, where its mapping ends the process."""
    nbytes = data.numel() * data.element_size()
    offset = _place(data.data_ptr(), nbytes, mappings)
    if offset is None or not data.is_contiguous():
        return MappedTensor(name, _CODES[data.dtype], data, file)
    return FileTensor(name, _CODES[data.dtype], tuple(data.shape), nbytes, file, offset)


def _mappings() -> list[tuple[int, int, int]]:
    """(first address, end, place in the file) of every file that is mapped; empty without /proc."""
    found = []
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        addresses, _, place, _, inode = line.split()[:5]
        if inode != b"0":
            begin, end = (int(address, 16) for address in addresses.split(b"-"))
            found.append((begin, end, int(place, 16)))
    return found


def _place(address: int, nbytes: int, mappings: list[tuple[int, int, int]]) -> int | None:
    """Where in its file the memory at an address comes from."""
    for begin, end, place in mappings:
        if begin <= address and address + nbytes <= end:
            return place + address - begin
    return None


def _load(path: Path, who: str) -> object:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds more than tensors, and no pickle is executed"
        raise damaged(path, who, what, _SAVE_AGAIN) from error
    except Exception as error:  # whatever a damaged archive sets off in torch's reader
        first = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise damaged(path, who, f"cannot be read ({first})") from error


def _require_plain(path: Path, who: str, name: object, value: object) -> None:
    plain = type(value) in (torch.Tensor, torch.nn.Parameter)
    if not isinstance(name, str) or not name.isprintable() or not plain:
        what = f"holds {name!r}, which is a {type(value).__name__}, no tensor"
    elif value.layout != torch.strided or value.is_quantized or value.is_meta:  # type: ignore[attr-defined]
        what = f"holds {name}, which is no plain tensor"
    elif value.dtype not in _CODES:  # type: ignore[attr-defined]
        what = f"holds {name} of {value.dtype}, which safetensors cannot hold"  # type: ignore[attr-defined]
    else:
        return
    raise damaged(path, who, what, _SAVE_AGAIN)


def _tied(loaded: dict[str, torch.Tensor]) -> dict[str, str]:
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name, data in loaded.items():
        if data.numel():
            key = (data.data_ptr(), data.dtype, data.shape, data.stride())
            other = first.setdefault(key, name)
            if other != name:
                found[name] = other
    return found
