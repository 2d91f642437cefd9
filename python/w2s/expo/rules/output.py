"""Output rules: is there a place to write to, and is it large enough?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from w2s.preflight.finding import Finding, error, warning
from w2s.sizes import size


def partial_of(out: Path) -> Path:
    """Where the result is written until it is complete."""
    return out.with_name(out.name + ".partial")


def output_findings(
    out: Path, needed: int, *, resume: bool, force_space: bool
) -> Iterator[Finding]:
    """needed: bytes of the whole result. resume: what lies in the partial folder is used again.
    force_space: too little free space is only warned of."""
    partial = partial_of(out)
    if _taken(out):
        yield error(
            "out-exists",
            f"{out} exists already",
            "name another folder, or remove it",
        )
    elif partial.exists() and not resume:
        yield error(
            "out-partial",
            f"{partial} is there, left by a run that did not end",
            "go on from it with --resume, or remove it",
        )
    parent = out.absolute().parent
    if not parent.is_dir():
        yield error(
            "out-parent",
            f"the folder {parent} that {out.name} is to be in does not exist",
            f"create it: mkdir -p {parent}",
        )
        return
    if not os.access(parent, os.W_OK | os.X_OK):
        yield error(
            "out-parent",
            f"the folder {parent} that {out.name} is to be in may not be written to",
            "name another folder, or have its rights changed",
        )
    rest = max(0, needed - (_held(partial) if resume else 0))
    free = shutil.disk_usage(parent).free
    if rest > free:
        kind = warning if force_space else error
        yield kind(
            "space",
            f"{size(rest)} are to be written, and {parent} has {size(free)} free",
            "free some space or name a folder on another disk, or go on nevertheless with "
            "--force-space",
        )


def _taken(out: Path) -> bool:
    """Whether anything but an empty folder bears the name."""
    try:
        return any(out.iterdir())
    except FileNotFoundError:
        return out.is_symlink()
    except OSError:  # a file, or a folder that may not be looked into
        return True


def _held(partial: Path) -> int:
    """Bytes on the disk of what an earlier run has written."""
    if not partial.is_dir():
        return 0
    return sum(file.stat().st_blocks * 512 for file in partial.rglob("*") if file.is_file())
