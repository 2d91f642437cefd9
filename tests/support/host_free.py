"""Watches a search for questions to the host and for memory that is allocated within its rounds.

On a machine without a GPU nothing waits, so nothing is slow: what would stall a queue of kernels
must be caught by name. `Watch` sees the operators that ask (`_local_scalar_dense`, `nonzero`, …)
and those that make a tensor from nothing; a dispatch mode does not see `.tolist()`, `.numpy()` or
DLPack, so the methods themselves are patched. What goes on inside one operator is left alone (a
CPU kernel of ours may look at values, which lie on the host already).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from w2s.flags import DeferredFlag
from w2s.kv import KVCache
from w2s.models import Model

_METHODS = (
    "__array__", "__bool__", "__contains__", "__dlpack__", "__float__", "__format__", "__index__",
    "__int__", "__repr__", "cpu", "item", "numpy", "tolist",
)  # fmt: skip
_ASK = {
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "_unique",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
_MAKE = {
    "arange", "empty", "empty_like", "empty_strided", "eye", "full", "full_like", "lift_fresh",
    "linspace", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones",
    "ones_like", "rand", "rand_like", "randint", "randn", "randperm", "scalar_tensor", "zeros",
    "zeros_like",
}  # fmt: skip


class HostQuestion(Exception):
    """A tensor's value was asked for on the host."""


class Allocation(Exception):
    """A tensor was made from nothing, or a buffer has moved."""


class Watch(TorchDispatchMode):
    """Raises at the first forbidden operator; `strict` forbids making tensors as well."""

    strict = False
    in_forward = 0
    in_op = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split("::")[1].split(".")[0]
        if func.namespace == "aten":
            if name in _ASK:
                raise HostQuestion(f"aten::{name}")
            if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
                raise HostQuestion("an index by a boolean mask: its size is read on the host")
            if name == "repeat_interleave" and "Tensor" in func._overloadname:
                raise HostQuestion("repeat_interleave by a tensor: its sum is read on the host")
            if name == "_to_copy" and kwargs.get("device") is not None:
                raise HostQuestion(f"a copy to {kwargs['device']}")
            made = name in _MAKE or (name == "where" and "Scalar" in func._overloadname)
            if made and self.strict and not self.in_forward:
                raise Allocation(f"aten::{name}")
        self.in_op = True
        try:
            return func(*args, **kwargs)
        finally:
            self.in_op = False


@contextlib.contextmanager
def watched(models: list[Model], *, flag: Callable[[DeferredFlag], bool]) -> Iterator[Watch]:
    """Everything inside is watched but what `flag` (which stands for `DeferredFlag.read`) does.

    Tensors may be made within the models' own forwards, which are the models' business, and where
    a cache grows into its next bucket.
    """
    watch = Watch()
    undo = [handle for model in models for handle in _count_forwards(model.backbone, watch)]
    undo += [handle for model in models for handle in _count_forwards(model.output, watch)]
    with contextlib.ExitStack() as stack:
        for method in _METHODS:
            forbidden = _forbidden(method, watch, getattr(Tensor, method))
            stack.enter_context(mock.patch.object(Tensor, method, forbidden))
        for module, function in (
            (torch.utils.dlpack, "to_dlpack"),
            (torch._C, "_to_dlpack"),
            (torch, "to_dlpack"),
        ):
            if hasattr(module, function):
                forbidden = _forbidden(function, watch, getattr(module, function))
                stack.enter_context(mock.patch.object(module, function, forbidden))
        stack.enter_context(mock.patch.object(Tensor, "to", _to_dtype_only(watch)))
        stack.enter_context(mock.patch.object(DeferredFlag, "read", flag))
        stack.enter_context(mock.patch.object(KVCache, "_reserve", _allowed(watch)))
        stack.callback(lambda: [handle.remove() for handle in undo])
        stack.enter_context(watch)
        yield watch


def _count_forwards(module: nn.Module, watch: Watch) -> list[Any]:
    def enter(*_: Any) -> None:
        watch.in_forward += 1

    def leave(*_: Any) -> None:
        watch.in_forward -= 1

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]


def _allowed(watch: Watch) -> Callable[..., None]:
    original = KVCache._reserve

    def reserve(cache: KVCache, slots: int) -> None:
        watch.in_forward += 1
        original(cache, slots)
        watch.in_forward -= 1

    return reserve


def _forbidden(name: str, watch: Watch, original: Callable[..., Any]) -> Callable[..., Any]:
    def ask(*args: Any, **kwargs: Any) -> Any:
        if watch.in_op:
            return original(*args, **kwargs)
        raise HostQuestion(f"Tensor.{name}")

    return ask


def _to_dtype_only(watch: Watch) -> Callable[..., Any]:
    original = Tensor.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        where = [a for a in (*args, *kwargs.values()) if isinstance(a, str | torch.device | Tensor)]
        if where and not watch.in_op:
            raise HostQuestion(f"Tensor.to({where[0]!r})")
        return original(self, *args, **kwargs)

    return to


def buffers(*roots: Any, leave_out: frozenset[str]) -> dict[str, Tensor]:
    """All tensors that these objects hold (in lists, dicts and objects of w2s), by their path.

    Attributes called as in `leave_out` are passed over, and so are the models: their weights are
    nobody's buffers.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            found[path] = value
            return
        if id(value) in seen or isinstance(value, Model):
            return
        seen.add(id(value))
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif type(value).__module__.split(".")[0] == "w2s":
            items = list(vars(value).items())
        else:
            return
        for name, inner in items:
            if name not in leave_out:
                walk(inner, f"{path}.{name}")

    for root in roots:
        walk(root, type(root).__name__)
    return found
