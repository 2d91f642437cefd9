"""The order of a leaf's sum, read from the compiler: the same for rows that are aligned and not.

Rows that start off a multiple of 16 bytes load one element at a time, so their tile lies in other
threads' registers. The interpreter, which has no threads, cannot see what that does to a sum.
"""

import re

import pytest

from w2s_kernels.triton_kernels import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 compiles nothing")
ARCHES = (80, 90, 100)
# `%m = "tt.reduce"(%x) <{axis = 0 : i32}> ({ …body… }) : (tensor<256xf32, #layout>) -> f32`
REDUCE = re.compile(r'"tt\.reduce"\(.*?\n(.*?)\}\) : \((tensor<[^)]*>)\)', re.DOTALL)
LAYOUT = re.compile(r"^(#\w+) = (.*)$", re.MULTILINE)
# What is left to the machine is one value a thread, in thread order; two ways to write it.
THREAD_ORDER = {
    "tensor<256xf32, #ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], "
    "warpsPerCTA = [8], order = [0]}>>",
    "tensor<256xf32, #ttg.linear<{register = [], lane = [[1], [2], [4], [8], [16]], "
    "warp = [[32], [64], [128]], block = []}>>",
}


def sums(dtype: str, aligned: bool, arch: int, **options: bool) -> list[str]:
    """The tensors, with their layout written out, that a forward's `tl.sum` adds up."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from w2s_kernels.triton_kernels import logprob, offer

    code, warps = offer.example_constants(dtype, aligned=aligned, **options)
    pointers = {
        "logits": f"*{dtype}", "target": "*i64", "value": "*fp32", "m_out": "*fp32",
        "s_out": "*fp64", "entropy": "*fp32", "partials": None, "temperature_rows": None,
    }  # fmt: skip
    constants = {"TARGETS": 1, "SPLIT": False, **code.named()}
    _, kernel, signature, constexprs, _ = offer.offer("", logprob._forward, pointers, constants, 0)
    types = signature | dict.fromkeys(constexprs, "constexpr")
    built = triton.compile(
        ASTSource(kernel, types, constexprs),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    text = built.asm["ttgir"]
    layouts = dict(LAYOUT.findall(text))
    found = [kind for body, kind in REDUCE.findall(text) if "arith.addf" in body and "f32" in kind]
    return [re.sub(r"#\w+(?=>$)", lambda name: layouts[name.group()], kind) for kind in found]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_rows_that_are_not_aligned_are_summed_in_the_order_of_aligned_ones(dtype, arch):
    aligned, shifted = (sums(dtype, flag, arch, entropy=True) for flag in (True, False))
    assert len(aligned) == 4  # Σ e and Σ e·y, of whole leaves and of the ragged one
    assert set(aligned + shifted) <= THREAD_ORDER
