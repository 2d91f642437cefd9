"""How an op's module lists its kernels for ahead-of-time compiles (`w2s_kernels.aot`)."""

from typing import Any

import torch

from .rows import Constants
from .settings import for_arch

AotEntry = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, Any]]
WIDTH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_HOPPER = 90  # the entry whose warps and stages the cases are compiled with


def offer(
    name: str,
    function: Any,
    pointers: dict[str, str | None],
    constexprs: dict[str, Any],
    warps: int,
) -> AotEntry:
    """One case of a kernel declared with `launch.kernel`.

    Args:
        name: see `w2s_kernels.aot.cases`.
        pointers: Triton's name of the type of each pointer argument; None for one that is None.
        constexprs: the constants.
        warps: of a program.
    """
    absent = {argument: None for argument, kind in pointers.items() if kind is None}
    signature = {
        parameter.name: pointers.get(parameter.name) or parameter.annotation_type
        for parameter in function.params
        if not parameter.is_constexpr and parameter.name not in absent
    }
    return name, function, signature, {**constexprs, **absent}, {"num_warps": warps}


def example_constants(
    dtype: str, *, softcap: bool = False, entropy: bool = False, aligned: bool = True
) -> tuple[Constants, int]:
    """Constants and warps for rows of 128256 columns of this dtype."""
    chosen = for_arch(_HOPPER, WIDTH[dtype], multiprocessors=132)
    code = Constants(
        softcap=softcap, entropy=entropy, aligned=aligned, wide_tail=aligned,
        vector=16 // WIDTH[dtype].itemsize, threads=32 * chosen.warps, leaves=32,
        stages=chosen.stages,
    )  # fmt: skip
    return code, chosen.warps
