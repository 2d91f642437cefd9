"""`ShardWriter`: one file of the result, under a temporary name until the disk has all of it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from w2s.errors import ExpoError
from w2s.expo.layout import ShardLayout

SCRATCH = ".tmp"  # after the name of a file that is being written
_STEP = 8 << 20  # bytes after which the disk is told to begin writing
# Bytes that may be on their way to the disk: enough to keep it busy, and few enough for the last
# fsync to be short, so that Ctrl-C is heard at any moment.
_WINDOW = 128 << 20


class ShardWriter:
    """Writes a shard's header, then its tensors by `write`; `finish` gives it its name.

    The file gets its full length first, so that a full disk shows before any work is done on it.

    Raises:
        ExpoError: the disk is full or the file cannot be written; names the file.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self.path = folder / layout.name
        self._scratch = folder / (layout.name + SCRATCH)
        self._data = len(layout.header)
        self._begun = self._settled = 0  # bytes that the disk is writing, and has written
        self._file = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with self._writing():
            self._file = os.open(self._scratch, flags, 0o666)
        try:
            with self._writing():
                _reserve(self._file, layout.nbytes)
                self._put(memoryview(layout.header), 0)
        except ExpoError:
            self.close()
            raise

    def write(self, data: memoryview, begin: int) -> None:
        """Puts bytes of the tensors at `begin`, counted from where the first tensor begins."""
        place = self._data + begin
        with self._writing():
            self._put(data, place)
            self._write_behind(place + len(data))

    def finish(self) -> None:
        """Waits until the disk has everything, and gives the file its name."""
        with self._writing():
            os.fsync(self._file)
            self.close()
            self._scratch.replace(self.path)

    def close(self) -> None:
        """Leaves an unfinished file as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _put(self, data: memoryview, place: int) -> None:
        while data:
            count = os.pwrite(self._file, data, place)
            data, place = data[count:], place + count

    def _write_behind(self, end: int) -> None:
        if end - self._begun < _STEP:
            return
        _begin_writing(self._file, self._begun, end - self._begun)
        self._begun = end
        late = end - _WINDOW - self._settled
        if late >= _STEP:
            _await_writing(self._file, self._settled, late)
            self._settled += late

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def unwritable(path: Path, error: OSError) -> ExpoError:
    """The sentence for a file of the result that the system does not let be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room, or choose another output folder" if full else "see to its folder or disk"
    return ExpoError(f"{path} cannot be written ({error.strerror or error}); {advice}")


def _reserve(file: int, length: int) -> None:
    try:
        os.posix_fallocate(file, 0, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise  # else a file system without it: a full disk shows while it is written


_LIBC = ctypes.CDLL(None, use_errno=True)
_HAS_RANGES = hasattr(_LIBC, "sync_file_range")
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4


def _sync_range(file: int, begin: int, length: int, flags: int) -> None:
    """Linux's sync_file_range; raises what the disk reports. The lock on Python is given up."""
    offset, count = ctypes.c_int64(begin), ctypes.c_int64(length)
    if _LIBC.sync_file_range(file, offset, count, ctypes.c_uint(flags)):
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.ESPIPE, errno.EINVAL):
            raise OSError(code, os.strerror(code))


def _begin_writing(file: int, begin: int, length: int) -> None:
    if _HAS_RANGES:
        _sync_range(file, begin, length, _WRITE)


def _await_writing(file: int, begin: int, length: int) -> None:
    if _HAS_RANGES:
        _sync_range(file, begin, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
    else:
        os.fdatasync(file)
