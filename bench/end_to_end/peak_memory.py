"""The most memory that a piece of work holds above what is there before it."""

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_above(work: Callable[[], object], device: torch.device) -> int:
    """Bytes above those in use when `work` begins, at its worst moment.

    On a CPU the process' resident set: its high-water mark is reset, then read again, so `work`
    should be the first of its kind in a fresh process, with all weights already touched. On a CUDA
    device what the caching allocator gave out.

    Raises `OSError` where the kernel does not let a process reset its high-water mark.
    """
    before = start(device)
    work()
    return highest(device) - before


def start(device: torch.device) -> int:
    """Resets the high-water mark and returns the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def highest(device: torch.device) -> int:
    """Bytes in use at the worst moment since `start`."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
