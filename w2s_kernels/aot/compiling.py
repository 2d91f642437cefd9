"""Compiles a case for an architecture that need not be here."""

import math
import re
from dataclasses import dataclass

from .cases import AotCase
from .machine_code import MachineCode, read

_WARP = 32
_DOT = re.compile(r"tt\.dot(?:_scaled)? (.*): tensor<[0-9x]*x(\w+)> \* tensor<[0-9x]*x(\w+)>")
_LOAD = re.compile(r"tt\.load .*: tensor<([0-9x]+)x!tt\.ptr<(\w+)>")
_LARGE = 4096  # bytes of a loaded tensor from which on it is a stream, not a row's few numbers
_STAGES = re.compile(r"tt\.num_stages = (\d+)")
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
    """A kernel for one architecture.

    dots: its matrix products. streamed: bytes of the large tensors that it loads, each load in the
    source counted once. threads, stages: of a program, of its pipelined loops.
    """

    case: AotCase
    arch: int
    dots: tuple[Dot, ...]
    streamed: int
    threads: int
    stages: int
    code: MachineCode

    def wide_share(self, width: int = 16) -> float:
        """Of the large tensors' bytes, the share that loads of `width` bytes a thread can bring."""
        if not self.streamed:
            return 1.0
        return min(1.0, self.code.wide_bytes(self.threads, self.stages, width) / self.streamed)


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
    code = built.asm["ttir"]
    return Compiled(
        case,
        arch,
        tuple(_dot(*found) for found in _DOT.findall(code)),
        sum(size for size in map(_bytes, _LOAD.findall(code)) if size >= _LARGE),
        _WARP * built.metadata.num_warps,
        _stages(code, built.metadata.num_stages),
        read(built.asm["cubin"], built.metadata.shared),
    )


def _stages(code: str, launched: int) -> int:
    """Of the pipelined loops: what the loops say themselves, else what the launch says."""
    return min(map(int, _STAGES.findall(code)), default=launched)


def _bytes(found: tuple[str, str]) -> int:
    shape, kind = found
    bits = int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))  # bf16, f32, i8, f8E4M3FN
    return math.prod(map(int, shape.split("x"))) * bits // 8


def _dot(options: str, left: str, right: str) -> Dot:
    found = _PRECISION.search(options)
    return Dot(left, right, found.group(1) if found else "ieee")
