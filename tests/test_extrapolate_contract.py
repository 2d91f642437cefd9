"""extrapolate as an op: what it takes and refuses, fakes, torch.compile, gradients, the GIL."""

import threading
import time

import pytest
import torch
from torch import Tensor

from support.memory import TensorMemory
from support.rounding import FLOATS, same_bits
from w2s_kernels import dispatch, explain, extrapolate, extrapolate_, key_of
from w2s_kernels.errors import DeviceError, DtypeError, LayoutError, RangeError, ShapeError
from w2s_kernels.ops import _extrapolate_reference
from w2s_kernels.ops.extrapolate import example_inputs


def test_empty_tensors_are_fine(backend):
    for shape in [(0,), (0, 5), (5, 0)]:
        empty, sums = torch.empty(shape, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float64)
        rows = torch.ones(shape[0], dtype=torch.float64)
        for alpha in (0.3, rows):
            found = extrapolate(empty, empty, alpha, out_dtype=torch.float32, sums=sums)
            assert found.shape == shape
            assert found.dtype == torch.float32
            extrapolate_(empty, empty, alpha, rounding="stochastic", sums=sums)
        assert not sums.any()


def test_a_single_number_needs_no_dimension(backend):
    one = torch.tensor(1.0)
    assert extrapolate(one, torch.tensor(0.5), 0.5).item() == 1.25
    assert extrapolate(one, torch.tensor(0.5), 0.5).shape == ()


def test_strided_inputs_are_read_in_row_major_order(backend):
    theta1, theta0 = example_inputs(40, 60, dtype=torch.float16)
    for rounding in ("nearest", "stochastic"):
        for one, two in ((theta1.t(), theta0.t()), (theta1[::2, 1::3], theta0[::2, 1::3])):
            found = extrapolate(one, two, 0.3, rounding=rounding)
            assert found.is_contiguous()
            expected = extrapolate(one.contiguous(), two.contiguous(), 0.3, rounding=rounding)
            assert same_bits(found, expected)
    extrapolate_(theta1, theta1[:1].expand(40, 60).flip(0), 0.0)


def test_gradients_stop_here(backend_once):
    theta1, theta0 = (t.requires_grad_() for t in example_inputs(3, 4))
    assert not extrapolate(theta1, theta0, 0.3).requires_grad
    layer = torch.nn.Linear(4, 3)
    expected = extrapolate(layer.weight, theta0, 0.3)
    extrapolate_(layer.weight, theta0, 0.3)
    assert layer.weight.requires_grad
    assert same_bits(layer.weight.detach(), expected)


@pytest.mark.parametrize("stochastic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_opcheck(backend_once, stochastic):
    ops, (theta1, theta0) = backend_once.namespace, example_inputs(5, 6, dtype=torch.bfloat16)
    sums, rows = torch.zeros(4, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for alphas in (None, rows):
        settings = (0.3, alphas, stochastic, -5, 3)
        torch.library.opcheck(ops.extrapolate.default, (theta1, theta0, *settings, torch.float16))
        for total in (None, sums):
            arguments = (theta0, torch.empty(5, 6), total, *settings)
            torch.library.opcheck(ops.extrapolate_into.default, (theta1, *arguments))
            torch.library.opcheck(
                ops.extrapolate_.default, (theta1.clone(), theta0, total, *settings)
            )


def test_it_compiles_without_a_graph_break(backend_once):
    def steps(theta1: Tensor, theta0: Tensor, sums: Tensor) -> list[Tensor]:
        first = extrapolate(theta1, theta0, 0.3, rounding="stochastic", key="name")
        extrapolate_(theta1, theta0, 0.1, sums=sums)
        same = extrapolate(theta1, theta0, 0.2, out=theta1)
        other = extrapolate(theta1, theta0, 0.2, out=torch.empty(7, 11), sums=sums)
        return [first, same, other, extrapolate(same, theta0, sums[:1].expand(7))]

    inputs = [*example_inputs(7, 11, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float64)]
    copies = [t.clone() for t in inputs]
    compiled = torch.compile(steps, fullgraph=True, backend="aot_eager")
    expected = steps(*inputs)
    assert all(map(same_bits, compiled(*copies), expected))
    assert all(map(same_bits, copies, inputs))


def test_fakes_know_shapes_and_dtypes():
    with torch._subclasses.FakeTensorMode():
        theta1, theta0 = torch.empty(3, 4).half(), torch.empty(3, 4)
        assert extrapolate(theta1, theta0, 0.3).dtype == torch.float16
        found = extrapolate(theta1, theta0, 0.3, out_dtype=torch.bfloat16)
        assert (found.dtype, found.shape) == (torch.bfloat16, (3, 4))
        extrapolate_(theta1, theta0, 0.3, sums=torch.empty(4, dtype=torch.float64))


def test_the_reference_asks_the_device_nothing():
    """On the meta device, where a question is an error."""
    theta1 = torch.empty(30, 2, device="meta")
    sums, rows = (torch.empty(n, dtype=torch.float64, device="meta") for n in (4, 30))
    for out_dtype in FLOATS:
        out = torch.empty_like(theta1, dtype=out_dtype)
        for alphas in (None, rows):
            _extrapolate_reference.extrapolate_into(
                theta1, theta1, out, sums, 0.3, alphas, True, 5, 4090
            )


@pytest.mark.slow
def test_the_references_memory_is_bounded():
    theta1, theta0 = example_inputs(1, 5 << 20, dtype=torch.bfloat16)
    out, sums = torch.empty_like(theta1), torch.zeros(4, dtype=torch.float64)
    with TensorMemory() as memory:
        _extrapolate_reference.extrapolate_into(theta1, theta0, out, sums, 0.3, None, True, 5, 0)
    assert memory.peak < 150 << 20  # all at once would take five times as much


def test_other_threads_run_meanwhile():
    """A tool reads and writes files beside it: the interpreter's lock is not held."""
    if dispatch.available()["extrapolate"]["cpu"] is not None:
        pytest.skip("no compiled library")
    theta1, theta0 = (t[0] for t in example_inputs(1, 1 << 20))
    theta1, theta0 = theta1.repeat(24), theta0.repeat(24)
    out, span = torch.empty_like(theta1), []
    extrapolate(theta1, theta0, 0.3, out=out)

    def work() -> None:
        begin = time.perf_counter()
        extrapolate(theta1, theta0, 0.3, out=out)
        span.extend((begin, time.perf_counter()))

    worker, ticks = threading.Thread(target=work), []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
    begin, end = span
    quarter = (end - begin) / 4
    assert sum(begin + quarter < tick < end - quarter for tick in ticks) > 10


def test_explain_says_which_backend_runs():
    assert "extrapolate: reference: taken" in explain("extrapolate", torch.empty(1, device="meta"))


def test_checks_name_the_bad_alpha(value_checks):
    theta = torch.zeros(2, 3)
    with pytest.raises(RangeError, match=r"alpha\[1\] is nan: it must be finite"):
        extrapolate(theta, theta, torch.tensor([0.0, float("nan")], dtype=torch.float64))


_THETA = torch.zeros(2, 3)
_SUMS = torch.zeros(4, dtype=torch.float64)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"theta1": 3}, DtypeError, r"theta1 must be a torch\.Tensor, got int"),
        (
            {"theta1": _THETA.long()},
            DtypeError,
            "theta1 must have dtype float64, float32, bf",
        ),
        ({"theta0": _THETA.bool()}, DtypeError, "theta0 must have dtype .*, got bool"),
        ({"theta0": _THETA[:1]}, ShapeError, r"theta0 must have shape \[2, 3\] \(from theta1\)"),
        ({"theta0": _THETA.to("meta")}, DeviceError, "theta0 is on meta but theta1 is on cpu"),
        ({"alpha": float("nan")}, RangeError, "alpha must be finite, got nan"),
        ({"alpha": "0.3"}, DtypeError, r"alpha must be a number or a float64 tensor \[rows\]"),
        ({"alpha": True}, DtypeError, "alpha must be a number .* got bool"),
        ({"alpha": torch.ones(2)}, DtypeError, "alpha must have dtype float64, got float32"),
        ({"alpha": _SUMS}, ShapeError, r"alpha must have shape \[2\] \(from the rows of theta1\)"),
        ({"rounding": "up"}, RangeError, "rounding must be 'nearest' or 'stochastic', got 'up'"),
        ({"key": -1}, RangeError, r"key must be a whole number in \[0, 2\*\*64\), got -1"),
        ({"key": 2**64}, RangeError, "key must be a whole number"),
        ({"key": 1.5}, RangeError, "key must be a whole number"),
        ({"start": -1}, RangeError, "start must be a whole number >= 0, got -1"),
        ({"start": 0.0}, RangeError, r"start must be a whole number >= 0, got 0\.0"),
        ({"sums": torch.zeros(4)}, DtypeError, "sums must have dtype float64"),
        ({"sums": _SUMS[:3]}, ShapeError, r"sums must have shape \[4\]"),
        ({"sums": torch.zeros(8).double()[::2]}, LayoutError, "sums is written, so it must be"),
        ({"out_dtype": torch.int8}, DtypeError, r"out_dtype must be .* got torch\.int8"),
        ({"out": _THETA.t().contiguous()}, ShapeError, "out must have shape"),
        ({"out": torch.zeros(3, 2).t()}, LayoutError, r"out is written.* strides \[1, 2\]"),
        ({"out": _THETA.to("meta")}, DeviceError, "out is on meta but theta1 is on cpu"),
        (
            {"out": torch.zeros(2, 3), "out_dtype": torch.float16},
            DtypeError,
            r"out_dtype is torch\.float16 but out has torch\.float32",
        ),
    ],
)
def test_bad_arguments_are_named(given, error, message):
    arguments = {"theta1": _THETA, "theta0": _THETA, "alpha": 0.3, **given}
    with pytest.raises(error, match=message):
        extrapolate(arguments.pop("theta1"), arguments.pop("theta0"), **arguments)


def test_a_place_that_overlaps_an_input_is_refused():
    storage = torch.zeros(20)
    theta1, theta0 = storage[:10], torch.zeros(10)
    for out in (storage[5:15], storage.view(torch.float64), storage.view(torch.float16)[10:20]):
        with pytest.raises(LayoutError, match="out overlaps theta1 without being the same"):
            extrapolate(theta1, theta0, 0.3, out=out)
    with pytest.raises(LayoutError, match="theta1 overlaps theta0"):
        extrapolate_(storage[:10], storage[1:11], 0.3)
    with pytest.raises(LayoutError, match="theta1 is written, so it must be contiguous"):
        extrapolate_(torch.zeros(3, 2).t(), torch.zeros(2, 3), 0.3)
    extrapolate(theta1, theta0, 0.3, out=storage[10:])
    extrapolate_(theta1, theta1, 0.3)


def test_bad_names_and_seeds_are_refused():
    with pytest.raises(DtypeError, match="name must be a str, got int"):
        key_of(3)
    with pytest.raises(RangeError, match=r"seed must be a whole number in \[0, 2\*\*64\), got -1"):
        key_of("a", -1)


def test_alpha_per_row_needs_rows():
    one = torch.tensor(1.0)
    with pytest.raises(ShapeError, match="alpha must be a number where theta1 has no dimension"):
        extrapolate(one, one, torch.ones(1, dtype=torch.float64))
