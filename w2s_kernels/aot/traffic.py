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
from torch import Tensor

from .. import dispatch
from ..bench.__main__ import CASES
from ..bench.case import Case, Size, nbytes

# Large enough for the targets and the ends of rows to be small beside the rows.
_SIZES = {
    "logprob": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "logprob_stats": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "logprob_diff": (Size(2, 32768), Size(2, 32768, dtype=torch.bfloat16)),
    "linear_logprob": (Size(16, 4096, 1024, dtype=torch.bfloat16),),
    "linear_logprob_diff": (
        Size(16, 4096, 1024, dtype=torch.bfloat16),
        Size(256, 4096, 4096),  # fp32: bf16 is widened in pieces by a CPU, not by a GPU
    ),
}


@dataclass(frozen=True)
class Traffic:
    """asked: bytes that the kernels load and store; least: what no implementation can avoid."""

    op: str
    size: str
    asked: int
    least: int


class _Counter:
    """asked: bytes so far, of Triton's loads and stores and of torch's products.

    operand: bytes of an operand's element on a GPU; a CPU widens it before it multiplies.
    """

    def __init__(self, operand: int) -> None:
        self.asked, self.operand = 0, operand

    def masked(self, mask: Any, pointers: Any) -> None:
        """One load or store of Triton's: what its mask lets through."""
        bits = pointers.get_element_ty().primitive_bitwidth
        self.asked += int(mask.data.sum()) * bits // 8

    def product(self, left: Tensor, right: Tensor, result: Tensor) -> None:
        """One product of torch's: its operands and its result."""
        self.asked += (left.numel() + right.numel()) * self.operand + nbytes(result)


@contextmanager
def _counting(operand: int) -> Iterator[_Counter]:
    from triton.runtime.interpreter import InterpreterBuilder

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    product, counter = torch.mm, _Counter(operand)

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counter.masked(mask, ptrs)
        return load(self, ptrs, mask, *rest, **named)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        counter.masked(mask, ptrs)
        return store(self, ptrs, value, mask, *rest)

    def counted_product(left: Any, right: Any, *rest: Any, **named: Any) -> Any:
        result = product(left, right, *rest, **named)
        counter.product(left, right, result)
        return result

    with (
        mock.patch.object(InterpreterBuilder, "create_masked_load", counted_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", counted_store),
        mock.patch.object(torch, "mm", counted_product),
    ):
        yield counter


def count(case: Case, size: Size) -> Traffic:
    """Runs one call of our Triton kernel on CPU tensors and counts."""
    inputs = case.inputs(size, 0)
    counting = _counting(size.dtype.itemsize)
    with torch.no_grad(), dispatch.use("triton"), counting as counter:
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
