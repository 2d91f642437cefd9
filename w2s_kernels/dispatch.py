"""Picks the backend of an op and can say why.

A backend is a torch namespace (`torch.ops.w2s_cpu`, `torch.ops.w2s_reference`, …) that holds an op
under the same name and schema as every other backend. `ops/_op.py` fills the table when an op is
defined; a call looks its backend up by device type. `W2S_KERNELS_BACKEND` (read at import) or
`use(...)` forces one; a forced backend that cannot run a call is an error, never a fall back.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import _library, triton_kernels
from .errors import BackendError, RangeError

BACKENDS = ("cuda", "triton", "cpu", "reference")
_DEVICE_TYPES = {"cuda": ("cuda",), "triton": triton_kernels.device_types(), "cpu": ("cpu",)}

# A backend's op -> the Python function behind it, for those of Triton.
python_functions: dict[Any, Callable[..., Any]] = {}

_table: dict[str, dict[str, Any]] = {}
_refused: dict[str, dict[str, str]] = {}
_forced: str | None = os.environ.get("W2S_KERNELS_BACKEND") or None
_checks: bool = os.environ.get("W2S_KERNELS_CHECKS", "0") not in ("", "0")


def register(name: str, backend: str, op: Any) -> None:
    """Enters a backend's op (an OpOverload) for `name`."""
    _table.setdefault(name, {})[backend] = op


def refuse(name: str, backend: str, reason: str) -> None:
    """Enters why a backend has no op for `name`."""
    _refused.setdefault(name, {})[backend] = reason


def resolve(name: str, device: torch.device) -> Any:
    """The op to call for tensors on `device`: the first backend of `BACKENDS` that takes them.

    Raises:
        BackendError: a forced backend does not have the op or does not run on this device.
    """
    table = _table[name]
    if _forced is not None:
        if _forced in table and _runs_on(_forced, device.type):
            return table[_forced]
        raise BackendError(_cannot_force(name, device.type))
    for backend in BACKENDS:
        if backend in table and _volunteers(backend, device.type):
            return table[backend]
    raise BackendError(f"{name}: no backend takes tensors on {device.type}")


def _runs_on(backend: str, device_type: str) -> bool:
    return backend == "reference" or device_type in _DEVICE_TYPES[backend]


def _volunteers(backend: str, device_type: str) -> bool:
    """Whether a backend takes such tensors unasked: Triton's interpreter must be forced."""
    interpreted = backend == "triton" and device_type == "cpu"
    return _runs_on(backend, device_type) and not interpreted


def _why_not(name: str, backend: str, device_type: str) -> str | None:
    if backend not in _table[name]:
        return _refused.get(name, {}).get(backend, "has no kernel for this op")
    if not _runs_on(backend, device_type):
        return f"runs on {' and '.join(_DEVICE_TYPES[backend])}, the tensors are on {device_type}"
    return None


def _cannot_force(name: str, device_type: str) -> str:
    if _forced not in BACKENDS:
        return f"backend {_forced!r} is unknown; choose one of {', '.join(BACKENDS)}"
    reason = _why_not(name, _forced, device_type)
    return f"{name}: the forced backend {_forced!r} cannot run this call: {reason}"


def explain(name: str, *args: Any, **kwargs: Any) -> str:
    """One line a backend: taken, or refused and why, for a call with these arguments.

    `name` is a public op of `w2s_kernels`; only the tensors among the arguments are looked at.
    """
    import w2s_kernels

    getattr(w2s_kernels, name)  # defines the op; an unknown name raises AttributeError here
    if name not in _table:
        return f"{name}: a composition of other ops; ask about those"
    device = next(_tensors([*args, *kwargs.values()]), torch.empty(0)).device.type
    lines, taken = [], False
    for backend in BACKENDS:
        reason = _why_not(name, backend, device)
        if reason is None and _forced not in (None, backend):
            reason = f"{_forced!r} is forced"
        if reason is None and _forced is None and not _volunteers(backend, device):
            reason = "the interpreter (TRITON_INTERPRET=1) runs only when it is forced"
        if reason is None and taken:
            reason = "an earlier backend takes the call"
        lines.append(f"{name}: {backend}: {'taken' if reason is None else 'refused: ' + reason}")
        taken = taken or reason is None
    return "\n".join(lines)


def _tensors(values: list[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(list(value))
        elif isinstance(getattr(value, "weight", None), torch.Tensor):
            yield value.weight


@contextlib.contextmanager
def use(backend: str | None) -> Iterator[None]:
    """Forces a backend inside a `with` block, as W2S_KERNELS_BACKEND does for a process."""
    global _forced
    if backend is not None and backend not in BACKENDS:
        raise RangeError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """The forced backend, None when the choice is free."""
    return _forced


def checks(enabled: bool) -> None:
    """Turns value checks (targets in range, no NaN) on or off; also W2S_KERNELS_CHECKS=1.

    They read tensors on the host, so they cost a synchronisation and refuse to run while a CUDA
    graph is being captured.
    """
    global _checks
    _checks = bool(enabled)


def checks_enabled() -> bool:
    """Whether value checks are on."""
    return _checks


def available() -> dict[str, dict[str, str | None]]:
    """op → backend → None when it is there, else the reason why it is not."""
    _library.load()
    return {
        name: {
            backend: None
            if backend in table
            else _refused.get(name, {}).get(backend, "has no kernel for this op")
            for backend in BACKENDS
        }
        for name, table in sorted(_table.items())
    }
