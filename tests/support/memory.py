"""Counts the bytes of all live tensors while a block runs."""

from typing import Any

from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CPU = DispatchKeySet(DispatchKey.CPU)


class TensorMemory(TorchDispatchMode):
    """`peak`: the most bytes that the storages made inside the block held at one time.

    Seen are the results of every op that reaches a backend, also of those that an op of ours on the
    CPU is made of; temporaries inside compiled kernels are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._before: set[int] = set()
        self.now = self.peak = 0

    def ignore(self, tensors: Any) -> None:
        """Storages that were there before and may show up as results."""
        self._before = {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "w2s_cpu":
            with self:  # past this mode for the op itself, but not for what it calls
                results = func.redispatch(_CPU, *args, **(kwargs or {}))
        else:
            results = func(*args, **(kwargs or {}))
        for key, (reference, count) in list(self._live.items()):
            if reference.expired():
                del self._live[key]
                self.now -= count
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                key = storage._cdata
                if key not in self._live and key not in self._before:
                    self._live[key] = (StorageWeakRef(storage), storage.nbytes())
                    self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return results
