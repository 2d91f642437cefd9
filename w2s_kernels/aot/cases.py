"""Which kernels are compiled, with which argument types and tile sizes.

A module of `w2s_kernels.triton_kernels` offers them as `aot_cases()`: a list of (name, jitted
function, signature, constexprs, options). The name says what the machine code is held to:

* `backward` among its words: may keep a few registers in local memory, a forward none;
* `scalar` or `unaligned` among its words: held to no width of loads, as it reads a few numbers a
  row, or rows that begin anywhere.

Among the options, `arches` names the architectures that launch the variant; by default all do.
"""

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import triton_kernels

ARCHES = (80, 90, 100)  # Ampere, Hopper, Blackwell
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
    arches: tuple[int, ...] = ARCHES

    @property
    def is_forward(self) -> bool:
        """Whether it is held to no spills at all."""
        return "backward" not in self.name

    @property
    def streams(self) -> bool:
        """Whether it reads aligned tensors, and so is held to wide loads."""
        return not {"scalar", "unaligned"} & set(re.split(r"\W+", self.name))

    @property
    def reads_bytes(self) -> bool:
        """Whether a tensor of 8-bit elements is among its arguments."""
        return any(kind in ("*i8", "*u8", "*fp8e4nv", "*fp8e5") for kind in self.signature.values())

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
    found = []
    for name, function, signature, constexprs, options in module.aot_cases():
        compiler = {key: value for key, value in options.items() if key != "arches"}
        arches = tuple(options.get("arches", ARCHES))
        found.append(AotCase(op, name, function, signature, constexprs, compiler, arches))
    names = [case.name for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"aot_cases() of {op} has the same name twice: {', '.join(twice)}")
    return found
