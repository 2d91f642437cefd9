"""A safetensors file on disk: its header, judged strictly, and its tensors, read piece by piece."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2s.errors import ExpoError

# Bits of an element, by the dtype codes of the format.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
# A header longer than this is no header (the format's own limit).
_HEADER_LIMIT = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_AGAIN = "download or copy the file again"


@dataclass(frozen=True)
class ShardFile:
    """A weight file as it was when the checkpoint was opened.

    path, who: where it lies, and whose it is, for messages. size in bytes, mtime in nanoseconds.
    digest: of what describes its tensors (a safetensors header; nothing of the weights).
    """

    path: Path
    who: str
    size: int
    mtime: int
    digest: str

    def identity(self) -> dict[str, str | int]:
        """What tells it from another file of its name, as JSON."""
        return {"size": self.size, "mtime": self.mtime, "digest": self.digest}

    def require_unchanged(self, status: os.stat_result, tensor: str) -> None:
        """Raises ExpoError if the file is not what it was when its header was read."""
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime):
            raise ExpoError(
                f"{self.path.name} of {self.who} was changed while {tensor} was read; wait until "
                "nothing writes to it, then start again"
            )


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a safetensors file (a `StoredTensor`); `offset` is where its bytes begin."""

    name: str
    code: str
    shape: tuple[int, ...]
    nbytes: int
    file: ShardFile
    offset: int

    @property
    def shard(self) -> str:
        return self.file.path.name

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fills `buffer` with the tensor's bytes from `begin` on, and lets the disk read ahead."""
        place, rest = self.offset + begin, buffer
        with reading(self.file, self.name):
            handle = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.file.require_unchanged(os.fstat(handle), self.name)
                while rest:
                    count = os.preadv(handle, [rest], place)
                    if not count:
                        raise ExpoError(
                            f"{self.shard} of {self.file.who} ends within {self.name}; {_AGAIN}"
                        )
                    place, rest = place + count, rest[count:]
                # The file goes on with the tensor that is wanted next.
                ahead = min(len(buffer), self.file.size - place)
                if ahead:
                    os.posix_fadvise(handle, place, ahead, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)


@contextmanager
def reading(file: ShardFile, tensor: str) -> Iterator[None]:
    """Turns an OSError into one that names the file and the tensor."""
    try:
        yield
    except OSError as error:
        raise ExpoError(
            f"{tensor} cannot be read from {file.path} of {file.who} ({error.strerror or error}); "
            "see to the disk, then start again"
        ) from error


def damaged(path: Path, who: str, what: str, advice: str = _AGAIN) -> ExpoError:
    """The error for a file that cannot be what its name says."""
    return ExpoError(f"{path.name} of {who} {what}; {advice}")


@contextmanager
def opening(path: Path, who: str) -> Iterator[None]:
    """Turns what the system or a parser has against a file into an ExpoError that names it."""
    try:
        yield
    except OSError as error:
        why = "it is a link to a file that is not there" if _dangles(path) else error.strerror
        raise damaged(path, who, f"cannot be read ({why or error})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ExpoError):
            raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(path, who, f"cannot be understood ({first})") from error


def _dangles(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:
        pass  # the error that is being told says which
    return False


def regular(path: Path, who: str) -> os.stat_result:
    """The status of a regular file, links followed; a folder or a pipe in its place is refused."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, who, "is no regular file")
    return status


def load_json(path: Path, who: str) -> Any:
    """A small JSON file."""
    with opening(path, who):
        regular(path, who)
        return json.loads(path.read_bytes())


def read_safetensors(path: Path, who: str) -> tuple[ShardFile, list[FileTensor], dict[str, str]]:
    """A file's tensors in the order of their bytes, and its metadata; no tensor is read.

    Raises:
        ExpoError: the file is missing, cut off, a git-lfs pointer or otherwise not what it says:
            names the file and, where there is one, the tensor.
    """
    with opening(path, who):
        size = regular(path, who).st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start and _LFS_POINTER.startswith(start):
                raise damaged(path, who, "is a git-lfs pointer", "run `git lfs pull`")
            if len(start) < 8 or length > _HEADER_LIMIT:
                raise damaged(path, who, "is no safetensors file")
            if size < 8 + length:
                has = f"{size} bytes, and its header alone has {8 + length}"
                raise damaged(path, who, f"is cut off: {has}")
            text = stream.read(length)
            mtime = os.fstat(stream.fileno()).st_mtime_ns
        file = ShardFile(path, who, size, mtime, hashlib.sha256(text).hexdigest()[:32])
        header = json.loads(text, object_pairs_hook=_no_name_twice)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        metadata = header.pop("__metadata__", None) or {}
        tensors = sorted(
            (_tensor(name, entry, file, 8 + length) for name, entry in header.items()),
            key=lambda tensor: (tensor.offset, tensor.nbytes),
        )
    _require_gapless(tensors, file, 8 + length)
    return file, tensors, {str(key): str(value) for key, value in dict(metadata).items()}


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} stands in its header twice")
    return found


def _tensor(name: str, entry: Any, file: ShardFile, data: int) -> FileTensor:
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(size) is int and size >= 0 for size in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole or not name.isprintable():
        raise ValueError(f"its header says nothing usable about {name!r}")
    if code not in DTYPE_BITS:
        raise ValueError(f"{name} has the dtype {code!r}, which the format does not have")
    if 8 * (end - begin) != math.prod(shape) * DTYPE_BITS[code]:
        raise ValueError(f"{name} has {end - begin} bytes, which is not {code} of shape {shape}")
    return FileTensor(name, code, tuple(shape), end - begin, file, data + begin)


def _require_gapless(tensors: list[FileTensor], file: ShardFile, data: int) -> None:
    """The format has every byte belong to one tensor; anything else is damage (or a trap)."""
    end = data
    for tensor in tensors:
        if tensor.offset != end:
            where = f"begins at byte {tensor.offset} where {end} is expected"
            raise damaged(file.path, file.who, f"has tensors that overlap: {tensor.name} {where}")
        end = tensor.offset + tensor.nbytes
    if end > file.size:
        last = next(tensor for tensor in tensors if tensor.offset + tensor.nbytes > file.size)
        what = f"is cut off within {last.name}: {file.size} bytes instead of {end}"
        raise damaged(file.path, file.who, what)
    if end < file.size:
        what = f"has more bytes than its header says: {file.size} instead of {end}"
        raise damaged(file.path, file.who, what)
