"""Writes that outlast a power cut: the data is on the disk, and so is the name it goes by."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_all(file: int, data: bytes) -> None:
    """Writes all of `data` to a file descriptor and waits until the disk has it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's entries: a rename is not kept without it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Gives `path` a new content in one step: a reader sees the old file or all of the new one."""
    scratch = path.with_name(path.name + ".tmp")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.writelines(pieces)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    finally:
        sync_folder(path.parent)
