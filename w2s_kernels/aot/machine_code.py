"""What a cubin says about itself: registers, memory, widths of loads, tensor-core instructions.

Read with cuobjdump and nvdisasm, which come inside the Triton package.
"""

import collections
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# cp.async.bulk and tensor-descriptor copies: whole tiles, by the copy engine.
_BULK = ("UTMALDG", "UBLKCP")
_TENSOR = re.compile(r"^(HMMA|HGMMA|IMMA|IGMMA|QMMA|QGMMA|UTC[A-Z]*MMA)")
_WIDTH = re.compile(r"\.(U8|S8|U16|S16|64|128|256)\b")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class MachineCode:
    """Of one kernel on one architecture.

    registers: a thread's. shared: bytes a block, with what the launch adds. spills: instructions
    that go to local memory, plus bytes of stack where there are any. loads, copies: bytes of a
    global load, or of an asynchronous copy to shared memory → how many instructions. bulk:
    instructions that copy whole tiles. tensor: tensor-core opcode → how many. instructions: all.
    """

    registers: int
    shared: int
    spills: int
    loads: Mapping[int, int] = field(default_factory=dict)
    copies: Mapping[int, int] = field(default_factory=dict)
    bulk: int = 0
    tensor: Mapping[str, int] = field(default_factory=dict)
    instructions: int = 0

    def wide_bytes(self, threads: int, stages: int, width: int = 16) -> int:
        """What the loads of `width` bytes or more bring in one pass over the code.

        A pipelined loop has its asynchronous copies `stages` times: before it and in it.
        """
        if self.bulk:
            return 1 << 62
        loads = sum(size * count for size, count in self.loads.items() if size >= width)
        copies = sum(size * count for size, count in self.copies.items() if size >= width)
        return threads * (loads + copies // max(1, stages))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def from_dict(data: Mapping[str, Any]) -> MachineCode:
    """What `as_dict` gave, after JSON has made names of the widths."""
    found = dict(data)
    for name in ("loads", "copies"):
        found[name] = {int(width): int(count) for width, count in data[name].items()}
    return MachineCode(**found)


def read(cubin: bytes, launch_shared: int) -> MachineCode:
    """Disassembles a cubin. launch_shared: bytes of shared memory that the launch asks for."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", str(file))
        code = _run(knobs.nvidia.nvdisasm.path, "-c", str(file))
    found = _USAGE.search(usage)
    if found is None:
        raise ValueError(f"cuobjdump -res-usage said nothing about registers:\n{usage}")
    registers, stack, static, local = map(int, found.groups())
    return parse(code, registers, static + launch_shared, stack + local)


def parse(code: str, registers: int, shared: int, local: int) -> MachineCode:
    """Counts the instructions of a disassembly."""
    opcodes = collections.Counter(_OPCODE.findall(code))
    loads: collections.Counter[int] = collections.Counter()
    copies: collections.Counter[int] = collections.Counter()
    tensor: collections.Counter[str] = collections.Counter()
    spills, bulk = local, 0
    for opcode, count in opcodes.items():
        stem = opcode.partition(".")[0]
        if stem in ("LDL", "STL"):
            spills += count
        elif stem in ("LDG", "LDGSTS"):
            (loads if stem == "LDG" else copies)[_width(opcode)] += count
        elif stem in _BULK:
            bulk += count
        elif _TENSOR.match(stem):
            tensor[opcode] += count
    return MachineCode(
        registers, shared, spills, dict(sorted(loads.items())), dict(sorted(copies.items())), bulk,
        dict(sorted(tensor.items())), sum(opcodes.values()),
    )  # fmt: skip


def _width(opcode: str) -> int:
    found = _WIDTH.search(opcode)
    return _BYTES[found.group(1)] if found else 4


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
