"""docs/gpu.md: a table of what the compiled kernels need and use."""

from collections.abc import Iterable, Sequence

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
  thread (`LDG.E.128`, `LDGSTS…128`); in brackets how much of the large tensors that the source
  loads they can bring. The others read targets, options and the ends of rows. *bulk*: the copy
  engine moves whole tiles (`UTMALDG`, `UBLKCP`). Heads of 8 bits may be read 8 bytes a thread, as
  Hopper's products want their operands laid out: a warp still reads 256 bytes in a row.
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
    lines = [_HEAD.format(triton=triton)]
    for op in dict.fromkeys(one.case.op for one in found):
        lines += [f"## {op}", "", *table([one for one in found if one.case.op == op]), ""]
    lines[-1:] = [_TRAFFIC, *_traffic(traffic)]
    return "\n".join(lines) + "\n"


def table(found: Iterable[Compiled]) -> list[str]:
    """One line a kernel and architecture."""
    lines = [
        "| kernel | | registers | shared | spills | 16-byte loads | tensor cores |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    before = ""
    for one in found:
        name, code = one.case.name, one.code
        shown = "" if name == before else name
        lines.append(
            f"| {shown} | sm_{one.arch} | {code.registers} | {code.shared} | {code.spills} "
            f"| {_loads(one)} | {_tensor(code)} |"
        )
        before = name
    return lines


def _loads(one: Compiled) -> str:
    code = one.code
    if code.bulk:
        return f"bulk ({code.bulk})"
    counts = [*code.loads.items(), *code.copies.items()]
    wide = sum(count for width, count in counts if width >= 16)
    share = f" ({one.wide_share():.0%})" if one.streamed else ""
    return f"{wide} of {sum(count for _, count in counts)}{share}"


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
