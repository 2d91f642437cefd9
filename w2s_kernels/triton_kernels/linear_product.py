"""Matrix products with fp32 results, by the vendor's library.

16-bit operands multiply on the tensor cores and accumulate in fp32, and the result is stored as
it was accumulated: a logit rounded to 16 bits would be useless here. CPU tensors (Triton's
interpreter) have no such product in torch: there the operands are widened, which gives the same
values. fp32 operands are multiplied in fp32 even where the user allows TF32 elsewhere: a log-prob
made of TF32 logits has three digits.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

_aten = torch.ops.aten


def operand_dtype(hidden: torch.dtype, weight: torch.dtype) -> torch.dtype:
    """dtype that both operands are brought to: exact for all of their values.

    int8 and fp8 values fit bf16 and fp16 exactly; bf16 and fp16 do not fit each other.
    """
    if weight == hidden or weight.itemsize == 1:
        return hidden
    return torch.float32


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """fp32 products without TF32 inside the `with` block."""
    matmul = torch.backends.cuda.matmul
    if matmul.fp32_precision != "tf32":
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = "tf32"


def product_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a·b in fp32 `[n, c]`; a `[n, k]` and b `[k, c]` of one dtype."""
    if a.dtype == torch.float32:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        _aten.mm.dtype_out(a, b, torch.float32, out=out)
    else:
        torch.mm(a.float(), b.float(), out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a·b in fp32 `[n, c]`."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.is_cuda and _accumulates(a.device):
        _aten.addmm.dtype_out(total, a, b, torch.float32, out=total)
    else:
        part = torch.empty_like(total)
        product_into(part, a, b)
        total.add_(part)


@functools.cache
def _accumulates(device: torch.device) -> bool:
    """Whether torch adds a product of 16-bit operands to an fp32 matrix (newer releases do)."""
    a = torch.zeros(16, 16, dtype=torch.bfloat16, device=device)
    total = torch.zeros(16, 16, device=device)
    try:
        _aten.addmm.dtype_out(total, a, a, torch.float32, out=total)
    except RuntimeError:  # "input dtypes must be the same"
        return False
    return True
