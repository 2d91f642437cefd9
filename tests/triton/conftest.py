"""The op tests once more, on Triton's interpreter: what the kernels say, without a GPU.

Kernels become Python functions when TRITON_INTERPRET=1 is set before they are declared, for a whole
process; so these tests run in one of their own (`make test` starts it) and any other process passes
them by. The promises are those of `tests/`: the tests there are imported, with fewer rows, as a
program costs milliseconds here, whatever it computes.
"""

import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy
import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# pytest leaves these files out of any other process, without so much as importing triton.
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]

if INTERPRETED:
    from conftest import Backend
    from triton.runtime import interpreter

    from w2s_kernels.triton_kernels import rows, settings

    for module in ("test_logprob", "test_logprob_diff", "test_logprob_gradient",
                   "test_logprob_inputs", "test_logprob_stats", "test_linear_logprob",
                   "test_linear_logprob_diff", "test_linear_logprob_gradient",
                   "test_linear_invariance"):  # fmt: skip
        pytest.register_assert_rewrite(module)

    # The interpreter prepares triton.language at every call of a device function and undoes it
    # after every launch, which takes longer than all else. Once for a module's functions is enough.
    _prepare = interpreter._patch_lang
    _prepared = {}

    def _prepare_once(function):
        scope = function.__globals__["__name__"]
        if scope not in _prepared:
            _prepared[scope] = _prepare(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = _prepare_once

    TRITON = Backend("triton", None)


@pytest.fixture(autouse=True)
def _silent_infinities() -> Iterator[None]:
    """Masked logits are infinite, and NumPy, which interprets, would warn of each."""
    with numpy.errstate(all="ignore"):
        yield


@pytest.fixture
def backend() -> Iterator["Backend"]:
    """The Triton backend, forced."""
    with TRITON.forced():
        yield TRITON


@pytest.fixture
def backend_once(backend: "Backend") -> "Backend":
    """The Triton backend, forced."""
    return backend


@pytest.fixture(scope="session")
def backends() -> list["Backend"]:
    """The Triton backend, for tests that loop over backends."""
    return [TRITON]


@pytest.fixture
def split_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few rows are split over programs, as on a large GPU: a program a leaf."""
    monkeypatch.setattr(settings, "_INTERPRETED_SMS", 1000)
    rows.forget_settings()
    yield
    monkeypatch.undo()
    rows.forget_settings()
