"""Which backend runs a call, how that can be forced, and what is said about it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import w2s_kernels
from w2s_kernels import _library, dispatch, select_beams
from w2s_kernels.errors import BackendError, RangeError
from w2s_kernels.ops import _check, logprob

SCORE = torch.tensor([[1.0, 2.0]])


@pytest.fixture(autouse=True)
def _free_choice():
    with dispatch.use(None):
        yield


def compiled() -> bool:
    return _library.load()


def test_the_first_backend_that_takes_the_call_is_taken():
    best = "cpu" if compiled() else "reference"
    op = dispatch.resolve("logprob", torch.device("cpu"))
    assert op is getattr(torch.ops, f"w2s_{best}").logprob.default
    on_gpu = dispatch.resolve("logprob", torch.device("cuda")).namespace
    assert on_gpu in ("w2s_triton", "w2s_cuda", "w2s_reference")


def test_explain_has_a_line_for_each_backend_and_one_that_is_taken():
    lines = w2s_kernels.explain("select_beams", SCORE, 1).splitlines()
    assert [line.split(": ")[1] for line in lines] == list(dispatch.BACKENDS)
    assert sum(line.endswith(": taken") for line in lines) == 1
    assert all(": taken" in line or ": refused: " in line for line in lines)


@pytest.mark.skipif(not compiled(), reason="no compiled library")
def test_explain_says_that_an_earlier_backend_took_the_call():
    text = w2s_kernels.explain("select_beams", SCORE, 1)
    assert "select_beams: cpu: taken" in text
    assert "select_beams: reference: refused: an earlier backend takes the call" in text


def test_explain_says_what_is_forced_and_looks_into_lists():
    indices = torch.zeros(3, 2, dtype=torch.long)
    with dispatch.use("reference"):
        text = w2s_kernels.explain("gather_beams_", [torch.zeros(2, 1, 1, 1)], *indices)
    assert "gather_beams_: reference: taken" in text
    if compiled():
        assert "gather_beams_: cpu: refused: 'reference' is forced" in text


def test_explain_of_a_tensor_elsewhere_says_where_a_backend_runs():
    text = w2s_kernels.explain("select_beams", torch.empty(1, 2, device="meta"), 1)
    assert "reference: taken" in text
    if compiled():
        assert "cpu: refused: runs on cpu, the tensors are on meta" in text


def test_explain_of_an_unknown_op_is_an_error():
    with pytest.raises(AttributeError, match="no_such_op"):
        w2s_kernels.explain("no_such_op")


def test_a_forced_backend_runs_the_call():
    with dispatch.use("reference"):
        assert dispatch.forced() == "reference"
        found = dispatch.resolve("logprob", torch.device("cpu"))
    assert found is torch.ops.w2s_reference.logprob.default
    assert dispatch.forced() is None


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_an_impossible_force_is_an_error_with_the_reason_and_no_fall_back(backend):
    expected = (
        f"select_beams: the forced backend '{backend}' cannot run this call: "
        f"(has no kernel|runs on cuda, the tensors are on cpu)"
    )
    with dispatch.use(backend), pytest.raises(BackendError, match=expected):
        select_beams(SCORE, 1)


def test_a_missing_compiled_kernel_is_named_when_it_is_forced(monkeypatch):
    monkeypatch.setitem(dispatch._table, "select_beams", {"reference": None})
    monkeypatch.setitem(dispatch._refused, "select_beams", {"cpu": "no compiler was found"})
    with dispatch.use("cpu"), pytest.raises(BackendError, match="no compiler was found"):
        select_beams(SCORE, 1)


def test_an_unknown_backend_cannot_be_used():
    message = "backend 'gpu' is unknown; choose one of cuda, triton, cpu, reference"
    with pytest.raises(RangeError, match=message), dispatch.use("gpu"):
        pass


def test_use_restores_the_choice_after_an_exception():
    with dispatch.use("reference"):
        with pytest.raises(KeyError), dispatch.use("cpu"):
            raise KeyError
        assert dispatch.forced() == "reference"
    assert dispatch.forced() is None


_CALL = """
import torch, w2s_kernels
print(w2s_kernels.explain("select_beams", torch.zeros(1, 2), 1))
try:
    w2s_kernels.select_beams(torch.zeros(1, 2), 1)
except w2s_kernels.errors.BackendError as error:
    print("refused:", error)
print(w2s_kernels.dispatch.checks_enabled())
"""


def test_the_environment_forces_a_backend_for_the_process():
    environment = {**os.environ, "W2S_KERNELS_BACKEND": "cuda", "W2S_KERNELS_CHECKS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", _CALL], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "select_beams: reference: refused: 'cuda' is forced" in found
    assert "refused: select_beams: the forced backend 'cuda' cannot run this call: " in found
    assert found.endswith("True\n")


_NO_TRITON = """
import sys
sys.modules["triton"] = None  # importing it is an ImportError
import torch, w2s_kernels
print(w2s_kernels.explain("logprob", torch.zeros(1, 3)))
print(w2s_kernels.logprob(torch.zeros(1, 4), torch.tensor([1])).item())
"""


def test_without_triton_the_package_works_and_says_what_is_missing():
    found = subprocess.run(
        [sys.executable, "-c", _NO_TRITON], capture_output=True, text=True, check=True
    ).stdout
    assert "logprob: triton: refused: triton is not installed (torch for CUDA brings it" in found
    assert found.endswith(f"{torch.tensor(0.25).log().item()}\n")


def test_an_unknown_backend_in_the_environment_is_an_error_at_the_first_call(monkeypatch):
    monkeypatch.setattr(dispatch, "_forced", "gpu")  # as read from W2S_KERNELS_BACKEND at import
    message = "backend 'gpu' is unknown; choose one of cuda, triton, cpu, reference"
    with pytest.raises(BackendError, match=message):
        select_beams(SCORE, 1)


def test_an_unknown_instruction_set_in_the_environment_is_an_error_at_import():
    if not _library.load():
        pytest.skip(f"no compiled library: {_library.reason()}")
    program = (
        "from w2s_kernels.errors import BackendError\ntry:\n    from w2s_kernels import logprob\n"
    )
    program += "except BackendError as error:\n    print('refused:', error)"
    environment = {**os.environ, "W2S_KERNELS_ISA": "sse9"}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    isas = " or ".join(torch.ops.w2s_library.isas().split())
    expected = f"W2S_KERNELS_ISA=sse9 does not run here; unset it or choose {isas}"
    assert found == f"refused: {expected}\n"


def test_checks_name_the_bad_value_and_are_off_by_default(value_checks):
    logits, target = torch.zeros(2, 3), torch.tensor([0, 3])
    with pytest.raises(RangeError, match=r"target\[1\] is 3: it must be -100 or lie in \[0, 3\)"):
        w2s_kernels.logprob(logits, target)
    with pytest.raises(RangeError, match=r"logits\[0, 0\] is nan"):
        w2s_kernels.logprob(torch.tensor([[float("nan")]]), torch.tensor([0]))
    w2s_kernels.checks(False)
    assert w2s_kernels.logprob(logits, target)[1].isnan()


def test_checks_refuse_during_graph_capture(value_checks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    on_gpu = SimpleNamespace(is_cuda=True)
    with pytest.raises(RangeError, match="turn it off for graph capture"):
        _check.reads_values(on_gpu)


def test_checks_do_not_break_a_compiled_graph(value_checks):
    logits, target = logprob.example_inputs(2, 5)
    compiled = torch.compile(w2s_kernels.logprob, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, target), w2s_kernels.logprob(logits, target))


def test_every_op_has_the_reference_backend():
    for name in w2s_kernels.__all__:
        getattr(w2s_kernels, name)
    assert all(backends["reference"] is None for backends in dispatch.available().values())


_FIRST_USE = """
import torch
import w2s_kernels

def several(logits, target):
    value = w2s_kernels.logprob(logits, target)
    m, _, _ = w2s_kernels.logprob_stats(logits, target)
    return value, m, w2s_kernels.logprob_diff(logits, logits, target)

logits, target = torch.randn(2, 9), torch.tensor([1, 8])
found = torch.compile(several, fullgraph=True, backend="eager")(logits, target)
assert all(map(torch.equal, found, several(logits, target)))
"""


def test_ops_that_are_first_used_while_compiling_are_found():
    done = subprocess.run([sys.executable, "-c", _FIRST_USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
