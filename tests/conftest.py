"""Fixtures of all tests. `backend` runs a test on every backend and instruction set there is.

An instruction set that this processor lacks shows up as a skipped test that names it, and in the
header. Helpers that are not fixtures live in tests/support (see there).
"""

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch

from w2s_kernels import _library, dispatch

_ARM = platform.machine() in ("aarch64", "arm64")
# avx512bf16 is avx512 but for one product: `backend_once` and tests/test_linear_bf16.py take it.
ISAS = ("neon", "generic") if _ARM else ("avx512", "avx2", "generic")


@dataclass(frozen=True)
class Backend:
    """A backend that is forced while the test runs; `isa` is None for the reference."""

    name: str
    isa: str | None

    @property
    def namespace(self) -> Any:
        """The `torch.ops` namespace that holds its ops."""
        return getattr(torch.ops, f"w2s_{self.name}")

    @contextlib.contextmanager
    def forced(self) -> Iterator[Self]:
        """Every op runs on this backend inside the `with` block."""
        with dispatch.use(self.name):
            if self.isa is None:
                yield self
                return
            before = torch.ops.w2s_library.isa()
            if not torch.ops.w2s_library.set_isa(self.isa):
                raise RuntimeError(f"the instruction set {self.isa} could not be chosen")
            try:
                yield self
            finally:
                torch.ops.w2s_library.set_isa(before)

    def __str__(self) -> str:
        return self.name if self.isa is None else f"{self.name}-{self.isa}"


def present_isas() -> list[str]:
    """Instruction sets that are compiled in and run here, best first."""
    return torch.ops.w2s_library.isas().split() if _library.load() else []


def _parameter(backend: Backend) -> Any:
    if backend.isa is None or backend.isa in present_isas():
        return pytest.param(backend, id=str(backend))
    why = _library.reason() or f"this processor has no {backend.isa}"
    return pytest.param(backend, id=str(backend), marks=pytest.mark.skip(reason=why))


REFERENCE = Backend("reference", None)
EVERY_ISA = [_parameter(REFERENCE), *(_parameter(Backend("cpu", isa)) for isa in ISAS)]
BEST_ISA = [_parameter(REFERENCE), _parameter(Backend("cpu", (present_isas() or ["generic"])[0]))]


@pytest.fixture(params=EVERY_ISA)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend, the compiled one once an instruction set; forced while the test runs."""
    with request.param.forced():
        yield request.param


@pytest.fixture(params=BEST_ISA)
def backend_once(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend once, with the best instruction set: for what no instruction set can change."""
    with request.param.forced():
        yield request.param


@pytest.fixture(scope="session")
def backends() -> list[Backend]:
    """Every backend present, none forced: for tests that compare them or loop over them."""
    return [REFERENCE, *(Backend("cpu", isa) for isa in present_isas())]


@pytest.fixture
def isas() -> list[str]:
    """The instruction sets present; skips where there is no compiled library."""
    if not present_isas():
        pytest.skip(f"no compiled library: {_library.reason()}")
    return present_isas()


@pytest.fixture
def value_checks() -> Iterator[None]:
    """`checks(True)` while the test runs."""
    before = dispatch.checks_enabled()
    dispatch.checks(True)
    try:
        yield
    finally:
        dispatch.checks(before)


def pytest_report_header() -> str:
    absent = [isa for isa in ISAS if isa not in present_isas()]
    found = ", ".join(present_isas()) or f"none ({_library.reason()})"
    return f"w2s CPU kernels: {found}; absent here: {', '.join(absent) or 'none'}"
