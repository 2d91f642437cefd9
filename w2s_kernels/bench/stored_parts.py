"""What all result files have in common: their stamp, and numbers that are numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stamp:
    """Machine, versions and commit of a file."""

    cpu: str
    cores: int
    cuda: tuple[str, ...]
    isa: str
    threads: int
    torch: str
    commit: str
    date: str

    def line(self, device: str, threads: Sequence[int] = ()) -> str:
        """One line, for results on `device`; `threads` in place of the file's own number."""
        count = " and ".join(map(str, threads or (self.threads,)))
        count += " thread" if count == "1" else " threads"
        machine = f"{self.cpu}, {self.isa}, {count} of {self.cores} cores"
        if device.startswith("cuda"):
            machine = f"{', '.join(self.cuda)}; host {machine}"
        return f"{machine}; torch {self.torch}; commit {self.commit}; {self.date}"


def number(value: Any, name: str, *, zero: bool = False) -> float:
    """`value` as a float above 0, or 0 too with `zero`; `ValueError` names what it is."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not (0 <= value < math.inf) or (value == 0 and not zero):
        raise ValueError(f"{name} is {value!r}, not a number {'>=' if zero else '>'} 0")
    return float(value)


def read_stamp(data: Any) -> Stamp:
    """What `w2s_kernels.bench.report.stamp` made."""
    devices = tuple(str(device["name"]) for device in data["cuda"])
    return Stamp(
        cpu=str(data["cpu"]["model"]),
        cores=int(number(data["cpu"]["cores"], "cores")),
        cuda=devices,
        isa=str(data["isa"]),
        threads=int(number(data["threads"], "threads")),
        torch=str(data["versions"]["torch"]),
        commit=str(data["commit"] or "unknown"),
        date=str(data["date"]).split()[0],
    )
