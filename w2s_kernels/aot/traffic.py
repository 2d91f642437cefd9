"""Bytes that a call of an op asks memory for, counted while Triton's interpreter runs it.

    TRITON_INTERPRET=1 python -m w2s_kernels.aot.traffic

The interpreter executes every load and store of every block; so the count is that of the kernel's
own plan, whatever a cache would answer. Products that a vendor library forms count their operands
and result once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .. import dispatch
from ..bench.__main__ import CASES
from ..bench.case import Case, Size, tensors

# Large enough for the targets and the ends of rows to be small beside the rows.
_SIZES = {
    "logprob": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "logprob_stats": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "logprob_diff": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "linear_logprob": (Size(16, 4096, 1024, dtype=torch.bfloat16),),
    "linear_logprob_diff": (
        Size(16, 4096, 1024, dtype=torch.bfloat16),
        Size(256, 4096, 4096, dtype=torch.bfloat16),
    ),
}


@dataclass(frozen=True)
class Traffic:
    """asked: bytes that the kernels load and store; least: what no implementation can avoid."""

    op: str
    size: str
    asked: int
    least: int


class _Counter(TorchDispatchMode):
    """asked: bytes so far, of Triton's loads and stores and of torch's products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.name() in ("aten::mm", "aten::mm.out", "aten::mm.dtype", "aten::mm.dtype_out"):
            touched = [*tensors(args[:2]), *tensors(result)]
            self.asked += sum(t.numel() * t.element_size() for t in touched)
        return result

    def masked(self, mask: Any, pointers: Any) -> None:
        """One load or store of Triton's: what its mask lets through."""
        bits = pointers.get_element_ty().primitive_bitwidth
        self.asked += int(mask.data.sum()) * bits // 8


@contextmanager
def _counting() -> Iterator[_Counter]:
    from triton.runtime.interpreter import InterpreterBuilder

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    with _Counter() as counter:

        def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            counter.masked(mask, ptrs)
            return load(self, ptrs, mask, *rest, **named)

        def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            counter.masked(mask, ptrs)
            return store(self, ptrs, value, mask, *rest)

        with (
            mock.patch.object(InterpreterBuilder, "create_masked_load", counted_load),
            mock.patch.object(InterpreterBuilder, "create_masked_store", counted_store),
        ):
            yield counter


def count(case: Case, size: Size) -> Traffic:
    """Runs one call of our Triton kernel on CPU tensors and counts."""
    inputs = case.inputs(size, 0)
    with torch.no_grad(), dispatch.use("triton"), _counting() as counter:
        case.providers["ours"].call(*inputs)
    shown = f"{size} D={size.dim}" if case.flops(size) else str(size)
    return Traffic(case.op, shown, counter.asked, case.least_bytes(size))


def counted() -> list[Traffic]:
    """Of every op with kernels that read logits or heads, in a process that interprets them."""
    command = [sys.executable, "-m", f"{__package__}.traffic"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return [Traffic(**entry) for entry in json.loads(done.stdout)]


if __name__ == "__main__":
    found = [count(CASES[op], size) for op in _SIZES for size in _SIZES[op]]
    print(json.dumps([asdict(one) for one in found]))
