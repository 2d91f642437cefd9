"""`ShardWriter`: one file of the result, under a temporary name until the disk has all of it.

The bytes go to the disk past the page cache (O_DIRECT) where the file system lets them: they are
not read again soon, and filling a cache with them costs more time than all else here, and room that
the inputs could have. Such writes begin and end at multiples of a block, in memory as in the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from w2s.errors import ExpoError
from w2s.expo.layout import ShardLayout

SCRATCH = ".tmp"  # after the name of a file that is being written
BLOCK = 4096  # bytes; what direct writes are multiples of
# Bytes that are held back until there are so many: small tensors are written together.
HELD = 1 << 20
# Without direct writes: bytes after which the disk must have them, so that the last sync is short.
_UNSYNCED = 128 << 20


def block_aligned(nbytes: int) -> torch.Tensor:
    """uint8 memory that begins at a multiple of `BLOCK`."""
    whole = torch.empty(nbytes + BLOCK, dtype=torch.uint8)
    return whole[-whole.data_ptr() % BLOCK :][:nbytes]


class ShardWriter:
    """Writes a shard's header, then the tensors' bytes by `write`; `finish` gives it its name.

    The file gets its full length first, so that a full disk shows before any work is done on it.

    end: bytes of the file so far.

    Raises:
        ExpoError: the disk is full or the file cannot be written; names the file.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self.path = folder / layout.name
        self._scratch = folder / (layout.name + SCRATCH)
        self._length = layout.nbytes
        # What follows the last block written: [end − count, end) of the file.
        self._held: memoryview = block_aligned(HELD).numpy().data
        self._count = self.end = self._unsynced = 0
        with self._writing():
            self._file, self._direct = _open(self._scratch)
        try:
            with self._writing():
                _reserve(self._file, self._length)
                self._hold(memoryview(layout.header))
        except ExpoError:
            self.close()
            raise

    def write(self, data: memoryview, lead: int) -> None:
        """Goes on with `data[lead:]`.

        data: begins at a multiple of `BLOCK` in memory. lead: `end % BLOCK`, so that the file's
        blocks are blocks in memory, too; the bytes before it are overwritten.
        """
        if lead != self.end % BLOCK:
            raise ValueError(f"the file goes on at {self.end % BLOCK} of a block, not at {lead}")
        with self._writing():
            if self._count + len(data) - lead <= HELD:
                self._hold(data[lead:])
                return
            self._put_blocks()
            data[:lead] = self._held[:lead]
            whole = len(data) // BLOCK * BLOCK
            self._put(data[:whole], self.end - lead)
            self.end += len(data) - lead
            self._count = len(data) - whole
            self._held[: self._count] = data[whole:]

    def finish(self) -> None:
        """Waits until the disk has everything, and gives the file its name."""
        with self._writing():
            blocks = -(-self._count // BLOCK)  # the last one is filled up, and cut off again
            self._put(self._held[: blocks * BLOCK], self.end - self._count)
            os.ftruncate(self._file, self._length)
            os.fsync(self._file)
            self.close()
            self._scratch.replace(self.path)

    def close(self) -> None:
        """Leaves an unfinished file as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _hold(self, data: memoryview) -> None:
        while data:
            if self._count == HELD:
                self._put_blocks()
            part = data[: HELD - self._count]
            self._held[self._count : self._count + len(part)] = part
            self._count += len(part)
            self.end += len(part)
            data = data[len(part) :]

    def _put_blocks(self) -> None:
        """Writes what is held, but for a last part of a block."""
        whole = self._count // BLOCK * BLOCK
        self._put(self._held[:whole], self.end - self._count)
        rest = self._count - whole
        self._held[:rest] = self._held[whole : self._count]
        self._count = rest

    def _put(self, data: memoryview, place: int) -> None:
        while data:
            try:
                count = os.pwrite(self._file, data, place)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._direct = False  # a file system that takes other blocks, or none after all
                flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
                fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
                continue
            data, place = data[count:], place + count
            self._unsynced += count
        if not self._direct and self._unsynced >= _UNSYNCED:
            os.fdatasync(self._file)
            self._unsynced = 0

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


def _open(path: Path) -> tuple[int, bool]:
    """A new file, and whether it is written to directly."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666), False


def _reserve(file: int, length: int) -> None:
    try:
        os.posix_fallocate(file, 0, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise  # else a file system without it: a full disk shows while it is written
