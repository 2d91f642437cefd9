"""What the machine can do, measured in the same run as the ops that are held to it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.logprob_stats import logprob_stats
from .timing import copies_for

_BYTES = 128 << 20
_LEAF = 4096  # columns; 16 KiB in fp32, which a first-level cache holds


class Ceilings:
    """Calls to be timed beside an op's providers, and what their times mean.

    Reading: the fastest of three of torch's reductions over the same 128 MiB, 1 GiB on a GPU (a
    sum, a maximum, a maximum of the words as integers). Exponentials: our own exp-sum of rows that
    all lie at one place (row stride 0), so that every column comes from the first-level cache: what
    the kernel would do if memory cost nothing.
    """

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self._bytes = _BYTES if device == "cpu" else 8 * _BYTES  # a GPU reads those in no time
        count = copies_for(self._bytes, device) if device != "cpu" else 3
        self._blocks = [torch.rand(self._bytes // 4, device=device) for _ in range(count)]
        leaf = torch.randn(_LEAF, device=device).to(dtype)
        rows = (16 << 20) // _LEAF
        self._rows = leaf.expand(rows, _LEAF)  # [rows, 4096], stride 0
        self._target = torch.zeros(rows, dtype=torch.long, device=device)
        self.calls: dict[str, Callable[[int], Any]] = {
            "read: sum": lambda turn: self._block(turn).sum(),
            "read: max": lambda turn: self._block(turn).amax(),
            "read: integer max": lambda turn: self._block(turn).view(torch.int32).amax(),
            "exp": lambda turn: logprob_stats(self._rows, self._target),
        }

    def _block(self, turn: int) -> Tensor:
        return self._blocks[turn % len(self._blocks)]

    def rates(self, least: dict[str, float]) -> tuple[float, float]:
        """(bytes/s of reading, exponentials/s) from the least seconds of each call."""
        reading = min(seconds for name, seconds in least.items() if name.startswith("read"))
        return self._bytes / reading, self._rows.numel() / least["exp"]
