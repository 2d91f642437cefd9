"""How much memory is free, and what to say when it was not enough."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from w2s.errors import SearchError

LOWER = "samples, width or max_new_tokens, or use a smaller dtype"
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(device: torch.device | str) -> int | None:
    """Bytes that can still be allocated on a device; None where the system does not say.

    CUDA: what the driver has free, and what torch's allocator holds without using it. CPU: the
    least of the system's MemAvailable and what the process's control groups (version 1 and 2)
    leave.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held)
    return min([*_system(), *_control_groups()], default=None)


def _system() -> Iterator[int]:
    for line in _lines(_PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups() -> Iterator[int]:
    """What each group that limits this process, and each group around it, has left."""
    for line in _lines(_PROC / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, usage = _CGROUP, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = (
                _CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            )  # fmt: skip
        else:
            continue
        folder = root / path.lstrip("/")
        # Inside a container the path may be the host's, of which only the root is to be seen.
        for place in {folder, *folder.parents, root}:
            if place != root and root not in place.parents:
                continue
            limits, used = _lines(place / limit), _lines(place / usage)
            if limits and used and limits[0].isdigit():  # "max" is no limit
                yield max(0, int(limits[0]) - int(used[0]) + _cached(place))


def _cached(group: Path) -> int:
    """Bytes of files that the kernel gives back before it runs out."""
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


@contextmanager
def memory_errors(doing: str, lower: str) -> Iterator[None]:
    """Turns running out of memory into a `SearchError`: while `doing` what, what to `lower`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _ran_out(error):
            raise
        raise SearchError(f"out of memory while {doing}; lower {lower}") from error


def _ran_out(error: RuntimeError) -> bool:
    # The CPU allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
