"""Compiles a case for an architecture that need not be here."""

import re
from dataclasses import dataclass

from .cases import AotCase
from .machine_code import MachineCode, read

ARCHES = (80, 90, 100)  # Ampere, Hopper, Blackwell
_WARP = 32
_DOT = re.compile(r"tt\.dot(?:_scaled)? (.*): tensor<[0-9x]*x(\w+)> \* tensor<[0-9x]*x(\w+)>")
_PRECISION = re.compile(r"inputPrecision = (\w+)")


@dataclass(frozen=True)
class Dot:
    """A matrix product in a kernel's source: Triton's names of its operands' types, and how exactly
    fp32 operands are multiplied."""

    left: str
    right: str
    precision: str


@dataclass(frozen=True)
class Compiled:
    """A kernel for one architecture. dots: its matrix products."""

    case: AotCase
    arch: int
    dots: tuple[Dot, ...]
    code: MachineCode


def compile_case(case: AotCase, arch: int) -> Compiled:
    """Compiles without a GPU and reads the machine code.

    Multiply-adds are fused only where a case's options say so (`enable_fp_fusion`), so that no
    default of a Triton version changes a bit of a result.

    Raises:
        RuntimeError: under TRITON_INTERPRET=1, where kernels are Python functions.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(case.function, triton.JITFunction):
        raise RuntimeError(
            f"{case.name} is not a compiled kernel but {type(case.function).__name__}; "
            "unset TRITON_INTERPRET and start again"
        )
    source = ASTSource(case.function, case.types(), dict(case.constexprs), case.attributes())
    options = {"enable_fp_fusion": False, **case.options}
    built = triton.compile(source, target=GPUTarget("cuda", arch, _WARP), options=options)
    dots = tuple(_dot(*found) for found in _DOT.findall(built.asm["ttir"]))
    return Compiled(case, arch, dots, read(built.asm["cubin"], built.metadata.shared))


def _dot(options: str, left: str, right: str) -> Dot:
    found = _PRECISION.search(options)
    return Dot(left, right, found.group(1) if found else "ieee")
