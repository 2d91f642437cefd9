"""Fixtures of all tests. `backend` runs a test on every backend and instruction set there is.

An instruction set that this processor lacks shows up as a skipped test that names it, and in the
header. Helpers that are not fixtures live in tests/support (see there).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from w2s_kernels import _library, dispatch

ISAS = ("avx512", "avx2", "generic")


@dataclass(frozen=True)
class Backend:
    """A backend that is forced while the test runs; `isa` is None for the reference."""

    name: str
    isa: str | None

    @property
    def namespace(self) -> Any:
        """The `torch.ops` namespace that holds its ops."""
        return getattr(torch.ops, f"w2s_{self.name}")

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


def _forced(backend: Backend) -> Iterator[Backend]:
    if backend.isa is None:
        with dispatch.use(backend.name):
            yield backend
        return
    before = torch.ops.w2s_library.isa()
    if not torch.ops.w2s_library.set_isa(backend.isa):
        raise RuntimeError(f"the instruction set {backend.isa} could not be chosen")
    try:
        with dispatch.use(backend.name):
            yield backend
    finally:
        torch.ops.w2s_library.set_isa(before)


@pytest.fixture(params=EVERY_ISA)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend, the compiled one once an instruction set; forced while the test runs."""
    yield from _forced(request.param)


@pytest.fixture(params=BEST_ISA)
def backend_once(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend once, with the best instruction set: for what no instruction set can change."""
    yield from _forced(request.param)


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
