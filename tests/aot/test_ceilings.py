"""Every Triton kernel, compiled for GPUs that need not be here, within its committed ceilings.

Compiled in a process of its own for each op, without TRITON_INTERPRET, which would make Python
functions of the kernels. The ceilings are those of one Triton; another one may use a few registers
more, and then only the promises that hold for any compiler are checked.
"""

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2s_kernels.aot.cases import ARCHES
from w2s_kernels.aot.machine_code import from_dict
from w2s_kernels.aot.promises import read_ceilings

CEILINGS = Path(__file__).parent / "ceilings.json"


def in_a_fresh_process(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


@functools.cache
def offered() -> tuple[str, ...]:
    done = in_a_fresh_process("-c", "from w2s_kernels.aot.cases import ops; print(*ops())")
    assert done.returncode == 0, done.stderr
    return tuple(done.stdout.split())


@pytest.mark.parametrize("op", offered())
def test_a_kernel_keeps_its_promises_and_ceilings_on_every_architecture(op, tmp_path):
    file = tmp_path / "figures.json"
    pinned = read_ceilings(CEILINGS)["triton"] == importlib.metadata.version("triton")
    ceilings = ["--ceilings", str(CEILINGS)] if pinned else []
    done = in_a_fresh_process("-m", "w2s_kernels.aot", "--op", op, "--json", str(file), *ceilings)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert figures
    assert {one["arch"] for one in figures} <= set(ARCHES)
    for one in figures:
        assert one["broken"] == []
        assert 0 < from_dict(one["code"]).registers <= 255


def test_no_ceiling_is_left_of_a_kernel_that_is_gone():
    script = "from w2s_kernels.aot.cases import cases, ops\n" \
        "[print(f'{op}: {case.name}') for op in ops() for case in cases(op)]"  # fmt: skip
    done = in_a_fresh_process("-c", script)
    assert done.returncode == 0, done.stderr
    assert set(read_ceilings(CEILINGS)["kernels"]) == set(done.stdout.splitlines())
