"""Cases for the ahead-of-time checks of the linear kernels: their arguments, by kernel."""

from collections.abc import Mapping
from typing import Any

import torch

from .linear_settings import Tile, for_arch

AotCase = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, Any]]


def tile_at_90(rows: int, operand: torch.dtype) -> Tile:
    """The committed tile of sm_90 for so many rows."""
    return for_arch(90, 8 * operand.itemsize).tile(rows)


def case(
    name: str,
    function: Any,
    pointers: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    warps: int,
    stages: int = 1,
) -> AotCase:
    """(name, function, signature, constexprs, options) of one launched variant.

    Args:
        name: see `w2s_kernels.aot.cases`.
        function: declared with `launch.kernel`: its numbers carry their types.
        pointers: argument → element type ("bf16"); one without an entry is None in this variant.
        constants: the constants the caller passes.
        warps, stages: of the launch.
    """
    short = {"int32": "i32", "int64": "i64", "float32": "fp32"}
    signature, constexprs = {}, dict(constants)
    for parameter in function.params:
        if parameter.is_constexpr:
            continue
        kind = str(parameter.annotation).rpartition(".")[2]
        if parameter.name in pointers:
            signature[parameter.name] = "*" + pointers[parameter.name]
        elif kind in short or kind in short.values():
            signature[parameter.name] = short.get(kind, kind)
        else:
            constexprs[parameter.name] = None
    return name, function, signature, constexprs, {"num_warps": warps, "num_stages": stages}


def on(cases: list[AotCase], arches: tuple[int, ...], more: str = "") -> list[AotCase]:
    """The same cases for these architectures alone, with `more` after their names."""
    return [
        (name + more, function, signature, constexprs, {**options, "arches": arches})
        for name, function, signature, constexprs, options in cases
    ]
