"""How an op becomes torch ops: one schema, one namespace a backend.

`define` declares `w2s_reference::NAME` (plain torch, any device) and, where there is a kernel,
`w2s_cpu::NAME` (from `csrc/`, or a Python function built on such kernels) and `w2s_triton::NAME`
(a function of `triton_kernels/`, imported at its first call). Every backend gets the same fake and
the same autograd formula, so `torch.compile`, fake tensors and `opcheck` see no difference between
them.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from .. import _library, dispatch, triton_kernels

_libraries = {
    backend: torch.library.Library(f"w2s_{backend}", "FRAGMENT")
    for backend in ("reference", "cpu", "triton")
}
_TAGS = (torch.Tag.pt2_compliant_tag,)


def define(
    name: str,
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    needs: tuple[str, ...] = (),
    triton: str | None = None,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Declares an op on every backend that has it and enters it for dispatch.

    Args:
        name: the op's name, the same in every room.
        schema: its arguments and results, "(Tensor logits, …) -> Tensor".
        reference: plain torch, any device, correct first; also the meaning of the op.
        fake: shapes and dtypes of the results from those of the arguments.
        cpu: a Python implementation on CPU tensors that calls compiled ops; None when the
            compiled library registers `w2s_cpu::NAME` itself.
        needs: names of the compiled `w2s_cpu` ops that `cpu` calls.
        triton: the module of `w2s_kernels.triton_kernels` that holds a function called `name`,
            with the arguments and results of the schema; None where there is no such kernel.
        setup_context: `(ctx, inputs, output)`, saves what `backward` reads.
        backward: `(ops, ctx, *grads)` where `ops` is the backend's `torch.ops` namespace.

    Raises:
        BackendError: W2S_KERNELS_ISA names an instruction set that does not run here.
    """
    _library.load()
    _library.require_isa()
    implementations: dict[str, Callable[..., Any] | None] = {"reference": reference}
    missing = [n for n in needs or (name,) if not _library.has_kernel("w2s_cpu", n, "CPU")]
    if not missing:
        implementations["cpu"] = cpu
    else:
        why = _library.reason() or f"the compiled library lacks {', '.join(missing)}"
        dispatch.refuse(name, "cpu", why)
    if triton is not None:
        absent = triton_kernels.reason()
        if absent is None:
            implementations["triton"] = _imported(triton, name)
        else:
            dispatch.refuse(name, "triton", absent)

    for backend, implementation in implementations.items():
        namespace, library = f"w2s_{backend}", _libraries[backend]
        library.define(name + schema, tags=_TAGS)
        if implementation is not None:
            key = "CPU" if backend == "cpu" else "CompositeExplicitAutograd"
            library.impl(name, implementation, key)
        qualified = f"{namespace}::{name}"
        torch.library.register_fake(qualified, fake, lib=library)
        if backward is not None:
            torch.library.register_autograd(
                qualified,
                _bind(backward, getattr(torch.ops, namespace)),
                setup_context=setup_context,
                lib=library,
            )
        elif name.endswith("_backward"):
            torch.library.register_autograd(qualified, _refuse_second_order(name), lib=library)
        op = getattr(getattr(torch.ops, namespace), name).default
        dispatch.register(name, backend, op)
        if backend == "triton" and implementation is not None:
            dispatch.python_functions[op] = implementation


def primitives(schemas: dict[str, str]) -> tuple[str, ...]:
    """Declares compiled `w2s_cpu` functions that a Python `cpu` implementation calls.

    They are no ops of their own: no dispatch, no fake, no gradient. Returns their names, which is
    what such an op's `needs` is; `define` finds out which are missing.
    """
    for name, schema in schemas.items():
        _libraries["cpu"].define(name + schema)
    return tuple(schemas)


def _imported(module: str, name: str) -> Callable[..., Any]:
    """`triton_kernels.module.name`, imported at the first call: triton takes a second to import."""
    function: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal function
        if function is None:
            found = import_module(f"{triton_kernels.__name__}.{module}")
            function = getattr(found, name)
        return function(*args)

    return call


def _bind(backward: Callable[..., Any], ops: Any) -> Callable[..., Any]:
    def bound(ctx: Any, *grads: Any) -> Any:
        return backward(ops, ctx, *grads)

    return bound


def _refuse_second_order(name: str) -> Callable[..., Any]:
    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            f"{name} has no gradient of its own: w2s_kernels ops are differentiable once"
        )

    return refuse
