"""Which kernels are compiled, with which argument types and tile sizes.

A module of `w2s_kernels.triton_kernels` offers them as `aot_cases()`: a list of (name, jitted
function, signature, constexprs, options). The name says what the machine code is held to:

* `backward` among its words: may keep a few registers in local memory, a forward none;
* `scalar` among its words: a kernel of a few numbers a row, held to no width of loads.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import triton_kernels

_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class AotCase:
    """One compile.

    op: the module. signature: argument name → type as Triton writes it, or "constexpr"; `:16` after
    a type says that the value is a multiple of 16. options: `num_warps` and what else the compiler
    takes.
    """

    op: str
    name: str
    function: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def is_forward(self) -> bool:
        """Whether it is held to no spills at all."""
        return "backward" not in self.name

    @property
    def streams(self) -> bool:
        """Whether it reads tensors, and so is held to wide loads."""
        return "scalar" not in self.name.split()

    def types(self) -> dict[str, str]:
        """The signature without alignments, with every constexpr in it."""
        found = {name: kind.partition(":")[0] for name, kind in self.signature.items()}
        return found | dict.fromkeys(self.constexprs, "constexpr")

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """What a launch finds out about its arguments: which are multiples of 16.

        Every pointer is one where the kernel is specialised on it: torch's allocator gives 512-byte
        blocks, and a launch with another pointer compiles a variant of its own.
        """
        found = {}
        for parameter in self.function.params:
            kind = self.signature.get(parameter.name, "constexpr")
            looked_at = not (
                parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
            )
            if kind.endswith(":16") or (kind.startswith("*") and ":" not in kind and looked_at):
                found[(parameter.num,)] = _ALIGNED
        return found


def ops() -> list[str]:
    """Modules of `triton_kernels` that offer cases, by name; imports triton."""
    found = []
    for info in pkgutil.iter_modules(triton_kernels.__path__):
        module = importlib.import_module(f"{triton_kernels.__name__}.{info.name}")
        if hasattr(module, "aot_cases"):
            found.append(info.name)
    return sorted(found)


def cases(op: str) -> list[AotCase]:
    """The cases of one module; `ValueError` for names that occur twice."""
    module = importlib.import_module(f"{triton_kernels.__name__}.{op}")
    found = [AotCase(op, *entry) for entry in module.aot_cases()]
    names = [case.name for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"aot_cases() of {op} has the same name twice: {', '.join(twice)}")
    return found
