"""Checkpoints put into the page cache, or out of it, before a timed run."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_BLOCK = 16 << 20
_ALLOWED = 0.02  # of a file's pages, for it to count as cold


class StillCached(Exception):
    """A file that cannot be put out of the page cache here; the message names it."""


def heat(files: Iterable[Path]) -> None:
    """Reads every byte once."""
    block = bytearray(_BLOCK)
    for path in files:
        with open(path, "rb", 0) as file:
            while file.readinto(block):
                pass


def cool(files: Iterable[Path]) -> None:
    """Asks the kernel to drop the files' pages, which are on the disk already, and looks.

    Raises:
        StillCached: more than 2 % of a file is still there.
    """
    for path in files:
        with open(path, "rb", 0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            share = cached(file.fileno())
        if share > _ALLOWED:
            raise StillCached(f"{path} is still {share:.0%} in the page cache")


def cached(file: int) -> float:
    """The share of an open file's pages that are in the page cache (mincore); reads nothing.

    Raises:
        OSError: the kernel does not tell.
    """
    size = os.fstat(file).st_size
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with mmap.mmap(file, size, prot=mmap.PROT_READ) as mapped:
        where = np.frombuffer(mapped, np.uint8).ctypes.data  # not kept: it would hold the map open
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(where), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, f"mincore: {os.strerror(number)}")
    return float((pages & 1).mean())
