"""Every instruction set's kernels give the same bits, NEON's too, which runs under qemu."""

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.symbols import shared_symbols

ROOT = Path(__file__).parent.parent
BUILDS = ROOT / "build" / "same_bits"
TOOLCHAIN = ROOT / "tests" / "native" / "aarch64.cmake"
LINE = re.compile(r"^(\w+) +\d+ cases +(\d+) values .* digest ([0-9a-f]{16})", re.MULTILINE)


def build(name: str, *options: str) -> Path:
    """The program of tests/native, built for `name`; needs no torch."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    folder = BUILDS / name
    folder.mkdir(parents=True, exist_ok=True)
    ninja = ["-GNinja"] if shutil.which("ninja") and not (folder / "Makefile").exists() else []
    configure = ["cmake", "-S", ROOT, "-B", folder, *ninja, "-DW2S_SAME_BITS=ON", *options]
    with (BUILDS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other test's process may want the same folder
        for command in (configure, ["cmake", "--build", folder]):
            ran = subprocess.run(command, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stdout + ran.stderr
    objects = sorted(folder.glob("**/cpu_*.dir/**/*.o"))
    assert objects
    assert shared_symbols(objects) == []
    return folder / "tests" / "native" / "same_bits"


def results(*command: str | Path) -> dict[str, tuple[int, str]]:
    """Runs the program: check → how many values it compared, the digest of the generic ones."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("W2S_")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "nothing to compare" in ran.stdout:
        pytest.skip("only the generic instruction set runs here")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "; 0 cases differ" in ran.stdout
    return {check: (int(values), digest) for check, values, digest in LINE.findall(ran.stdout)}


@pytest.mark.slow
def test_every_instruction_set_of_this_processor_gives_the_generic_bits():
    found = results(build("native"))
    assert set(found) >= {"primitives", "leaf", "logprob", "linear", "guide_block", "guided_ops"}
    assert "extrapolate" in found
    assert sum(values for values, _ in found.values()) > 10_000_000


@pytest.mark.slow
def test_neon_gives_the_generic_bits_and_aarch64_those_of_this_processor():
    absent = [
        tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None
    ]
    if absent:
        pytest.skip(f"no {' and no '.join(absent)}")
    arm = results("qemu-aarch64", build("aarch64", f"--toolchain={TOOLCHAIN}"))
    assert arm == results(build("native"))
