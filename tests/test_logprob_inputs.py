"""Bad input to the log-prob family: a typed error that names the argument and what is allowed."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import w2s_kernels
from w2s_kernels import errors
from w2s_kernels.ops.logprob_diff import logprob_diff

V = 11


def call_logprob(logits: object, target: object, **options: object) -> object:
    return w2s_kernels.logprob(logits, target, **options)


def call_stats(logits: object, target: object, **options: object) -> object:
    return w2s_kernels.logprob_stats(logits, target, **options)


def call_diff_tuned(logits: object, target: object, **options: object) -> object:
    shape = logits.shape[:-1] if isinstance(logits, Tensor) else (3,)
    return logprob_diff(logits, torch.zeros(*shape, V), target, **options)


def call_diff_untuned(logits: object, target: object, **options: object) -> object:
    shape = logits.shape[:-1] if isinstance(logits, Tensor) else (3,)
    return logprob_diff(torch.zeros(*shape, V), logits, target, **options)


CALLS = [
    pytest.param(call_logprob, "logits", id="logprob"),
    pytest.param(call_stats, "logits", id="logprob_stats"),
    pytest.param(call_diff_tuned, "tuned", id="logprob_diff tuned"),
    pytest.param(call_diff_untuned, "untuned", id="logprob_diff untuned"),
]
Call = Callable[..., object]
TARGET = torch.tensor([1, 2, 3])
LOGITS = torch.zeros(3, V)


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_logits_of_a_wrong_dtype_shape_or_layout_are_refused_by_name(call: Call, name: str):
    with pytest.raises(errors.DtypeError, match=f"^{name} must have dtype .*got float64"):
        call(LOGITS.double(), TARGET)
    with pytest.raises(errors.DtypeError, match=f"^{name} must have dtype .*got int64"):
        call(LOGITS.long(), TARGET)
    with pytest.raises(errors.DtypeError, match=f"^{name} must be a torch.Tensor, got list"):
        call([[1.0, 2.0]] * 3, TARGET)
    with pytest.raises(errors.ShapeError, match=f"^{name} must have at least one column"):
        call(torch.zeros(3, 0), TARGET)
    with pytest.raises(
        errors.LayoutError, match=f"^{name} must be contiguous in its last .*got stride 3"
    ):
        call(torch.zeros(V, 3).T, TARGET)


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_targets_that_do_not_fit_are_refused(call: Call, name: str):
    with pytest.raises(errors.ShapeError, match=r"^target must have shape \[3\] or \[3, 'K'\]"):
        call(LOGITS, TARGET[:2])
    with pytest.raises(errors.ShapeError, match=r"^target must have shape"):
        call(LOGITS, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(errors.DtypeError, match=r"^target must have dtype int32, int64, got float"):
        call(LOGITS, TARGET.float())
    with pytest.raises(errors.DeviceError, match=r"^target is on meta but "):
        call(LOGITS, TARGET.to("meta"))


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_options_out_of_range_are_refused(call: Call, name: str):
    for bad in (0, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(errors.RangeError, match=r"^temperature must be a finite number > 0"):
            call(LOGITS, TARGET, temperature=bad)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.RangeError, match=r"^softcap must be a finite number >= 0"):
            call(LOGITS, TARGET, softcap=bad)
    for bad in (-1, V + 1):
        with pytest.raises(errors.RangeError, match=f"^valid_vocab.*must lie in .*{V}.*got {bad}"):
            call(LOGITS, TARGET, valid_vocab=bad)
    with pytest.raises(errors.ShapeError, match=r"^temperature must have shape \[3\]"):
        call(LOGITS, TARGET, temperature=torch.ones(2))
    with pytest.raises(errors.DtypeError, match=r"^temperature must be a float or a floating"):
        call(LOGITS, TARGET, temperature=torch.ones(3, dtype=torch.int64))


def test_models_on_different_devices_or_with_other_rows_are_refused():
    with pytest.raises(errors.DeviceError, match=r"^untuned is on meta but tuned is on cpu"):
        logprob_diff(LOGITS, LOGITS.to("meta"), TARGET)
    with pytest.raises(errors.ShapeError, match=r"^untuned must have leading dimensions \[3\]"):
        logprob_diff(LOGITS, LOGITS[:2], TARGET)
    with pytest.raises(errors.RangeError, match=r"^softcap must be one value or 2"):
        logprob_diff(LOGITS, LOGITS, TARGET, softcap=(0.0, 1.0, 2.0))


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_checks_name_the_bad_value(value_checks: None, backend_once: object, call: Call, name: str):
    logits = LOGITS.clone()
    logits[2, 5] = float("nan")
    with pytest.raises(errors.RangeError, match=rf"^{name}\[2, 5\] is nan: logits must be < inf"):
        call(logits, TARGET)
    call(LOGITS, torch.tensor([1, -100, V - 1]))
    if name != "logits" or call is call_logprob:  # a shard's targets may lie in other shards
        with pytest.raises(
            errors.RangeError, match=rf"^target\[1\] is {V}: it must be -100 or lie in \[0, {V}\)"
        ):
            call(LOGITS, torch.tensor([1, V, 3]))


def test_checks_leave_compiled_functions_alone(value_checks: None):
    compiled = torch.compile(w2s_kernels.logprob, fullgraph=True, backend="aot_eager")
    assert compiled(LOGITS, torch.tensor([1, V, 3])).isnan().tolist() == [False, True, False]


def test_the_environment_turns_checks_on_and_forces_a_backend():
    program = (
        "import torch, w2s_kernels as k\n"
        "z = torch.zeros(1, 3)\n"
        "try:\n"
        "    k.logprob(z, torch.tensor([3]))\n"
        "except k.errors.RangeError as error:\n"
        "    print(error)\n"
        "print(k.explain('logprob', z))\n"
        "k.checks(False)\n"
        "print(k.logprob(z, torch.tensor([3])).item())\n"
    )
    settings = {"W2S_KERNELS_CHECKS": "1", "W2S_KERNELS_BACKEND": "reference"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | settings
    )
    assert done.returncode == 0, done.stderr
    assert "target[0] is 3: it must be -100 or lie in [0, 3)" in done.stdout
    assert "logprob: reference: taken" in done.stdout
    assert done.stdout.strip().endswith("nan")


def test_a_forced_backend_that_cannot_run_is_an_error_with_the_reason():
    with (
        w2s_kernels.dispatch.use("triton"),
        pytest.raises(errors.BackendError, match="forced backend 'triton' cannot run this call"),
    ):
        w2s_kernels.logprob(LOGITS, TARGET)
