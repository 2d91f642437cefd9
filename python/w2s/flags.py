"""The one question a search asks the host: has everything ended?"""

import torch
from torch import Tensor


class DeferredFlag:
    """A device boolean that the host learns later.

    On a GPU `write` starts a copy to pinned memory and `read` answers with the flag of the write
    before the last, whose copy has had a whole step to arrive: nothing waits for work just queued.
    On a CPU there is no queue, so `read` answers with the last one. A flag that was true stays
    true, so an old answer is never wrong, only late.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._flag: Tensor | None = None
        self._pinned: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []
        self._writes = 0
        if self._on_gpu:
            self._pinned = [torch.zeros((), dtype=torch.bool).pin_memory() for _ in range(2)]
            self._events = [torch.cuda.Event() for _ in range(2)]

    def write(self, flag: Tensor) -> None:
        """Takes a boolean scalar on the device."""
        if self._on_gpu:
            slot = self._writes % 2
            self._pinned[slot].copy_(flag, non_blocking=True)
            self._events[slot].record()
        self._flag = flag
        self._writes += 1

    def read(self) -> bool:
        """False until a write has arrived."""
        if not self._on_gpu:
            return self._flag is not None and bool(self._flag)
        if self._writes < 2:
            return False
        slot = self._writes % 2  # the older of the two
        self._events[slot].synchronize()
        return bool(self._pinned[slot])
