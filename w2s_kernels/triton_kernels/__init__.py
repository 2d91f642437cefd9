"""Triton kernels, one file an op; triton itself is imported when the first of them is called.

* `common.py`: device functions that kernels share: leaf, combination, value rules, finish.
* `launch.py`: how a kernel is launched with little work on the host.
* `settings.py`, `settings.json`: warps and stages an architecture and dtype; committed, never
  searched for at run time.
* `OP.py`: an op's kernels and, under the op's names, the functions torch calls.
"""

import os
from importlib import util

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def reason() -> str | None:
    """Why no Triton kernel runs here; None when they do. Does not import triton."""
    if util.find_spec("triton") is None:
        return "triton is not installed (torch for CUDA brings it, or: pip install triton)"
    import torch

    if torch.version.hip is not None:
        return "not measured on ROCm, where the reference runs"
    return None


def device_types() -> tuple[str, ...]:
    """Device types that the kernels take: "cuda", and "cpu" too under TRITON_INTERPRET=1."""
    return ("cuda", "cpu") if INTERPRETED else ("cuda",)
