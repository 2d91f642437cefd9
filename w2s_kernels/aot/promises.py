"""What every kernel's machine code is held to, and the committed ceilings.

A ceiling is what the pinned Triton made when the ceiling was written; the test fails when a change
of a kernel needs more. `python -m w2s_kernels.aot --write-ceilings FILE` writes them again.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .compiling import Compiled

WIDE_SHARE = 0.9  # of the bytes of large tensors
_SHORT = {"bf16", "f16", "f8E4M3FN", "f8E5M2", "i8"}  # what tensor cores multiply without loss
_MEASURES = ("registers", "shared", "spills")


def broken(compiled: Compiled) -> list[str]:
    """Sentences on what this kernel does not keep; empty when it keeps all."""
    case, code = compiled.case, compiled.code
    where = f"{case.op}, {case.name}, sm_{compiled.arch}"
    found = []
    if case.is_forward and code.spills:
        found.append(f"{where}: {code.spills} spills; a forward has none")
    width = 8 if case.reads_bytes else 16
    share = compiled.wide_share(width)
    if case.streams and share < WIDE_SHARE:
        found.append(
            f"{where}: only {share:.0%} of what it reads is read {width} bytes a thread "
            f"(bytes: loads {dict(code.loads)}, copies {dict(code.copies)}); say with "
            "tl.multiple_of what is aligned"
        )
    for dot in compiled.dots:
        if {dot.left, dot.right} <= _SHORT and not code.tensor:
            found.append(
                f"{where}: a product of {dot.left} and {dot.right} without the tensor cores"
            )
        if {dot.left, dot.right} == {"f32"} and dot.precision == "tf32":
            found.append(
                f"{where}: tf32 rounds a product's fp32 to 10 bits; use input_precision='ieee'"
            )
    return found


def over(compiled: Compiled, ceilings: Mapping[str, Any]) -> list[str]:
    """Sentences on measures above their ceiling, or a ceiling that is missing."""
    key = f"{compiled.case.op}: {compiled.case.name}"
    ceiling = ceilings["kernels"].get(key, {}).get(f"sm_{compiled.arch}")
    if ceiling is None:
        return [f"{key}, sm_{compiled.arch}: has no ceiling; write them with --write-ceilings"]
    return [
        f"{key}, sm_{compiled.arch}: {name} {getattr(compiled.code, name)} > {ceiling[name]}"
        for name in _MEASURES
        if getattr(compiled.code, name) > ceiling[name]
    ]


def as_ceilings(found: Iterable[Compiled]) -> str:
    """The ceilings file's text: one line a kernel and architecture."""
    import triton

    kernels: dict[str, dict[str, Any]] = {}
    for one in found:
        measures = {name: getattr(one.code, name) for name in _MEASURES}
        kernels.setdefault(f"{one.case.op}: {one.case.name}", {})[f"sm_{one.arch}"] = measures
    lines = [f'{{\n "triton": "{triton.__version__}",\n "kernels": {{']
    for number, (key, arches) in enumerate(sorted(kernels.items())):
        inner = ",\n".join(f'   "{a}": {json.dumps(m)}' for a, m in sorted(arches.items()))
        comma = "," if number + 1 < len(kernels) else ""
        lines.append(f"  {json.dumps(key, ensure_ascii=False)}: {{\n{inner}\n  }}{comma}")
    return "\n".join([*lines, " }\n}\n"])


def read_ceilings(file: Path) -> dict[str, Any]:
    """The ceilings file."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
