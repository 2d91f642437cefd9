"""docs/gpu.md: a table of what the compiled kernels need and use."""

from collections.abc import Iterable, Mapping, Sequence

from .compiling import Compiled
from .machine_code import MachineCode
from .traffic import Traffic

_HEAD = """\
# GPU kernels, compiled without a GPU

<!-- Written by `make aot` (python -m w2s_kernels.aot --page docs/gpu.md); change
w2s_kernels/aot/page.py instead. -->

Every Triton kernel is compiled here for sm_80 (Ampere), sm_90 (Hopper) and sm_100 (Blackwell), and
its machine code is read. Nothing below was run on a GPU; what was measured on one is in the
README's table of hardware. Compiled with Triton {triton}; `tests/aot` holds each kernel to the
figures below as ceilings, and a forward to no spills.

* **registers**: of a thread; 255 is the limit. **shared**: bytes a block. **spills**: instructions
  that go to local memory, and bytes of stack.
* **16-byte loads**: of all instructions that load from global memory, those that load 16 bytes a
  thread (`LDG.E.128`, `LDGSTS…128`); in brackets their share of the bytes. The others read targets,
  options and the ends of rows. *bulk*: the copy engine moves whole tiles (`UTMALDG`, `UBLKCP`).
* **tensor cores**: the instructions of matrix products: `HMMA` (Ampere's, and on later ones for few
  rows), `HGMMA` (Hopper), `UTC…MMA` (Blackwell). Empty: a kernel without such a product, or one
  that multiplies in fp32, as it must to be right.
"""

_TRAFFIC = """
## Bytes over the minimum

What the kernels ask memory for, counted load by load and store by store while Triton's interpreter
runs them, over the least that any implementation must read (every input once). A second read of the
same bytes counts, though a cache may answer it.
"""


def page(found: Sequence[Compiled], traffic: Iterable[Traffic], triton: str) -> str:
    """The whole page as Markdown."""
    by_op: dict[str, dict[str, dict[int, MachineCode]]] = {}
    for one in found:
        by_op.setdefault(one.case.op, {}).setdefault(one.case.name, {})[one.arch] = one.code
    lines = [_HEAD.format(triton=triton)]
    for op, kernels in by_op.items():
        lines += [f"## {op}", "", *table(kernels), ""]
    lines[-1:] = [_TRAFFIC, *_traffic(traffic)]
    return "\n".join(lines) + "\n"


def table(kernels: Mapping[str, Mapping[int, MachineCode]]) -> list[str]:
    """One line a kernel and architecture."""
    lines = [
        "| kernel | | registers | shared | spills | 16-byte loads | tensor cores |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, arches in kernels.items():
        shown = name
        for arch, code in sorted(arches.items()):
            lines.append(
                f"| {shown} | sm_{arch} | {code.registers} | {code.shared} | {code.spills} "
                f"| {_loads(code)} | {_tensor(code)} |"
            )
            shown = ""
    return lines


def _loads(code: MachineCode) -> str:
    if code.bulk:
        return f"bulk ({code.bulk})"
    wide = sum(count for width, count in code.loads.items() if width >= 16)
    return f"{wide} of {sum(code.loads.values())} ({code.wide_share:.0%})"


def _tensor(code: MachineCode) -> str:
    return ", ".join(f"`{opcode}` × {count}" for opcode, count in code.tensor.items())


def _traffic(traffic: Iterable[Traffic]) -> list[str]:
    lines = [
        "| op | size | asked for | least | over the minimum |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {t.op} | {t.size} | {t.asked} | {t.least} | {t.asked / t.least:.3f} |" for t in traffic
    ]
    return lines
