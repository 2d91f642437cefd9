"""Launch settings an architecture and dtype, from a committed table; nothing is searched for here.

`warps` enters the order of a leaf's sum, so it may depend on the architecture and on the dtype and
on nothing else: one number for every kernel on logits, whatever N and V are. Stages and the number
of programs change no bits.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("settings.json").read_text())
_INTERPRETED_SMS = 0  # the interpreter has nothing to fill: rows are not split


@dataclass(frozen=True)
class Settings:
    """How kernels on logits of one dtype are launched on one device."""

    warps: int
    stages: int  # of the forward's loop over leaves
    backward_stages: int
    programs: int  # programs that fill the device; fewer rows than that are split over leaves
    arch: int  # 80, 90, 100, …; 0 under the interpreter


@functools.cache
def settings(device: torch.device, dtype: torch.dtype) -> Settings:
    """The table's entry for this device: that of the newest architecture not newer than it."""
    if device.type != "cuda":
        return for_arch(0, dtype, _INTERPRETED_SMS)
    properties = torch.cuda.get_device_properties(device)
    arch = 10 * properties.major + properties.minor
    return for_arch(arch, dtype, properties.multi_processor_count)


def for_arch(arch: int, dtype: torch.dtype, multiprocessors: int) -> Settings:
    """The entry for an architecture (as 90 for sm_90), also one that no device here has."""
    known = sorted(int(name) for name in _TABLE)
    entry = _TABLE[str(max((name for name in known if name <= arch), default=known[0]))]
    bits = str(8 * dtype.itemsize)
    return Settings(
        warps=entry["warps"][bits],
        stages=entry["forward_stages"][bits],
        backward_stages=entry["backward_stages"][bits],
        programs=entry["programs_per_sm"] * multiprocessors,
        arch=arch,
    )
