"""linear_logprob: values, value rules, layouts, errors, and what torch asks of an op."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support import float64, linear
from w2s_kernels import Head, linear_logprob
from w2s_kernels.errors import DtypeError, KernelError, LayoutError, RangeError, ShapeError
from w2s_kernels.ops.linear_logprob import example_inputs, tolerance

KINDS = (
    "fp32", "bf16", "fp16", "fp32+bias", "bf16+bias+scale", "fp32+softcap", "fp16+softcap+bias",
    "fp32+scale", "bf16+padding", "int8", "int8+bias+softcap", "fp8+scale",
)  # fmt: skip
# Few rows and many: the CPU backend makes their products in different ways.
ROWS = (1, 3, 33, 300)


def assert_right(
    hidden: torch.Tensor,
    head: Head,
    target: torch.Tensor,
    *,
    temperature: float = 1.0,
    invariant: bool = False,
) -> None:
    value = linear_logprob(hidden, head, target, temperature=temperature, invariant=invariant)
    expected = linear.logprob(hidden, head, target, temperature=temperature)
    allowed = tolerance(expected, hidden, head, temperature=temperature)
    assert float64.within(value, expected, allowed), float64.largest_error(value, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_values_match_float64_for_every_head(backend, kind):
    head = linear.head(4200, 40, kind)
    for rows in (3, 40):
        hidden, target = linear.inputs(rows, head)
        assert_right(hidden, head, target, temperature=0.7)
    assert_right(hidden[:5], head, target[:5], temperature=0.7, invariant=True)


@pytest.mark.parametrize("width", [64, 576, 896, 2048, 4096, 77, 1])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_values_match_float64_for_every_width(backend_once, kind, width):
    head = linear.head(300, width, kind)
    for rows in ROWS:
        hidden, target = linear.inputs(rows, head)
        assert_right(hidden, head, target)
    assert_right(hidden[:6], head, target[:6], invariant=True)


VOCABS = (1, 2, 7, 127, 128, 1000, 32000, 49152, 50257, 128256, 151936, 262144)


@pytest.mark.parametrize(
    "vocab", [v if v <= 32000 else pytest.param(v, marks=pytest.mark.slow) for v in VOCABS]
)
def test_values_match_float64_for_every_vocabulary(backend_once, vocab):
    head = linear.head(vocab, 64, "bf16")
    hidden, target = linear.inputs(3, head)
    target[0], target[1] = 0, vocab - 1
    assert_right(hidden, head, target)


@pytest.mark.full
@pytest.mark.parametrize("width", [576, 896, 2048, 4096])
@pytest.mark.parametrize("vocab", VOCABS[6:])
def test_values_match_float64_on_the_full_grid(backend_once, vocab, width):
    head = linear.head(vocab, width, "bf16")
    for rows in (1, 33):
        hidden, target = linear.inputs(rows, head)
        assert_right(hidden, head, target)


def test_values_match_float64_over_many_rows_and_pieces(backend_once):
    # More rows than one group (1024 at this width), more columns than one widened piece (512).
    head = linear.head(600, 4096, "bf16+bias")
    hidden, target = linear.inputs(1100, head)
    assert_right(hidden, head, target)


def test_hidden_and_weight_may_differ_in_dtype(backend_once):
    head = linear.head(600, 64, "bf16")
    hidden, target = linear.inputs(5, linear.head(600, 64, "fp32"))
    assert_right(hidden, head, target)
    assert_right(hidden.half(), head, target)


def test_entropy_matches_float64(backend):
    for kind in ("fp32+bias", "bf16+softcap+padding"):
        head = linear.head(4200, 40, kind)
        for rows in (3, 40):
            hidden, target = linear.inputs(rows, head)
            value, entropy = linear_logprob(hidden, head, target, temperature=1.3, entropy=True)
            expected = linear.entropy(hidden, head, temperature=1.3)
            allowed = tolerance(expected, hidden, head, temperature=1.3)
            assert float64.within(entropy, expected, allowed)
            assert torch.equal(value, linear_logprob(hidden, head, target, temperature=1.3))


def test_temperature_may_be_a_tensor_and_a_bad_entry_is_its_rows_own(backend_once):
    head = linear.head(900, 64)
    hidden, target = linear.inputs(6, head)
    temperature = torch.tensor([1e-3, 0.7, 1.0, 10.0, 0.0, -1.0])
    value = linear_logprob(hidden, head, target, temperature=temperature)
    expected = linear.logprob(hidden, head, target, temperature=temperature)
    assert float64.within(value, expected, tolerance(expected, hidden, head, temperature=1e-3))
    assert value.isnan().tolist() == [False] * 4 + [True] * 2
    with pytest.raises(RangeError, match="temperature"):
        linear_logprob(hidden, head, target, temperature=0.0)


def test_targets_of_a_row_share_one_product(backend_once):
    head = linear.head(5000, 64)
    hidden, target = linear.inputs(5, head, targets=4)
    value = linear_logprob(hidden, head, target)
    each = [linear_logprob(hidden, head, target[:, k].contiguous()) for k in range(4)]
    assert torch.equal(value, torch.stack(each, dim=1))
    assert torch.equal(value, linear_logprob(hidden, head, target.int()))


def test_ignored_is_zero_and_invalid_is_nan(backend_once):
    head = linear.head(1000, 64, "fp32+padding")  # 993 valid
    hidden, _ = linear.inputs(7, head)
    hidden[0] = float("nan")
    target = torch.tensor([-100, -1, 993, 999, 1007, 0, 992])
    value = linear_logprob(hidden, head, target)
    assert value[0] == 0
    assert value[1:5].isnan().all()
    assert value[5:].isfinite().all()
    assert linear_logprob(hidden[:1], head, torch.tensor([3])).isnan().all()


def test_ignored_rows_change_no_other_row(backend_once):
    head = linear.head(600, 64, "bf16")
    hidden, target = linear.inputs(20, head)
    temperature = torch.linspace(0.5, 2.0, 20)
    whole = linear_logprob(hidden, head, target, temperature=temperature, invariant=True)
    ignored = torch.arange(20) % 3 == 0
    target[ignored] = -100
    value = linear_logprob(hidden, head, target, temperature=temperature, invariant=True)
    assert torch.equal(value, whole.masked_fill(ignored, 0.0))
    assert (linear_logprob(hidden, head, torch.full((20,), -100)) == 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), vocab=st.integers(2, 60), shift=st.floats(-1e3, 1e3))
def test_shifts_and_permutations_of_the_vocabulary_change_nothing(seed, vocab, shift):
    head = linear.head(vocab, 12, "fp32+bias", seed=seed)
    hidden, target = linear.inputs(4, head, seed=seed)
    value = linear_logprob(hidden, head, target, invariant=True)
    assert (value <= 0).all()
    shifted = replace(head, bias=head.bias + shift)
    allowed = 2 * tolerance(value.double(), hidden, shifted)
    assert float64.within(linear_logprob(hidden, shifted, target, invariant=True), value, allowed)
    order = torch.randperm(vocab, generator=linear.generator(seed))
    moved = replace(head, weight=head.weight[order], bias=head.bias[order])
    place = order.argsort()[target]
    assert float64.within(linear_logprob(hidden, moved, place, invariant=True), value, allowed)


def test_a_bias_of_minus_infinity_masks_its_column(backend_once):
    head = linear.head(300, 64, "fp32+bias")
    head.bias[5:] = float("-inf")
    for rows in (2, 40):
        hidden, _ = linear.inputs(rows, head)
        target = torch.full((rows,), 7)
        target[0] = 1
        value = linear_logprob(hidden, head, target)
        expected = linear.logprob(hidden, head, target)
        assert float64.within(value, expected, tolerance(expected, hidden, head))
    head.bias[:] = float("-inf")
    assert linear_logprob(hidden, head, target).isnan().all()


def test_a_shared_offset_costs_no_digits(backend_once):
    head = linear.head(2000, 64, "fp32+bias")
    plain, target = linear.inputs(3, head)
    head.bias.add_(30000.0)
    expected = linear.logprob(plain, head, target)
    value = linear_logprob(plain, head, target)
    assert float64.within(value, expected, tolerance(expected, plain, head))


def test_padding_columns_are_not_read(backend_once):
    head = linear.head(4200, 64, "bf16+bias")
    hidden, target = linear.inputs(3, head)
    target %= 4097
    weight, bias = head.weight.clone(), head.bias.clone()
    weight[4097:], bias[4097:] = float("nan"), float("nan")
    padded = linear_logprob(hidden, Head(weight, bias, valid_vocab=4097), target, invariant=True)
    bare = Head(head.weight[:4097], head.bias[:4097])
    assert torch.equal(padded, linear_logprob(hidden, bare, target, invariant=True))


def test_leading_dimensions_and_strided_rows_are_taken(backend_once):
    head = linear.head(500, 64)
    wide = torch.randn(2, 3, 100)
    hidden, target = wide[..., :64], torch.randint(500, (2, 3))
    value = linear_logprob(hidden, head, target)
    assert value.shape == (2, 3)
    flat = linear_logprob(hidden.reshape(6, 64), head, target.reshape(6))
    assert torch.equal(value.reshape(6), flat)
    strided = Head(torch.randn(500, 100)[:, :64])
    assert_right(hidden.reshape(6, 64), strided, target.reshape(6))
    one = linear_logprob(hidden[0, 0], head, target[0, 0])
    assert one.shape == ()


def test_empty_inputs_give_empty_results(backend_once):
    head = linear.head(500, 64)
    hidden, _ = linear.inputs(3, head)
    none = torch.empty(0, dtype=torch.long)
    value, entropy = linear_logprob(hidden[:0], head, none, entropy=True)
    assert value.shape == entropy.shape == (0,)
    assert linear_logprob(hidden, head, torch.empty(3, 0, dtype=torch.long)).shape == (3, 0)


MEMORY = """
import resource, sys, torch
import w2s_kernels as k
from w2s_kernels import dispatch
torch.set_num_threads(1)
rows, vocab = 4096, 12288
head = k.Head(torch.randn(vocab, 8).bfloat16())
hidden, target = torch.randn(rows, 8).bfloat16(), torch.randint(vocab, (rows,))
with dispatch.use(sys.argv[1]):
    k.linear_logprob(hidden[:300], head, target[:300])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    k.linear_logprob(hidden, head, target)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_forward_takes_at_most_64_mib(backend_once):
    # [N, V] in fp32 would be 192 MiB.
    command = [sys.executable, "-c", MEMORY, backend_once.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 64 * 1024  # KiB


def test_bad_arguments_name_themselves():
    head = linear.head(50, 8)
    hidden, target = linear.inputs(4, head)
    cases = [
        (DtypeError, "hidden", (hidden.double(), head, target)),
        (DtypeError, "target", (hidden, head, target.float())),
        (DtypeError, "head", (hidden, head.weight, target)),
        (ShapeError, "hidden", (hidden[:, :7], head, target)),
        (ShapeError, "target", (hidden, head, target[:3])),
        (LayoutError, "hidden", (torch.randn(8, 8).T[:4], head, target)),
        (KernelError, "target", (hidden, head, target.to("meta"))),
        (KernelError, "hidden", (hidden.to("meta"), head, target)),
    ]
    for error, name, args in cases:
        with pytest.raises(error, match=name):
            linear_logprob(*args)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(RangeError, match="temperature"):
            linear_logprob(hidden, head, target, temperature=temperature)
    with pytest.raises(ShapeError, match="temperature"):
        linear_logprob(hidden, head, target, temperature=torch.ones(3))


def test_value_checks_name_the_bad_target(value_checks):
    head = linear.head(50, 8, "fp32+padding")
    hidden, target = linear.inputs(4, head)
    target[2] = 43
    with pytest.raises(RangeError, match=r"target\[2\] is 43"):
        linear_logprob(hidden, head, target)


def arguments(head: Head, hidden: torch.Tensor, target: torch.Tensor) -> tuple:
    return (
        hidden, head.weight, head.bias, head.weight_scale, head.softcap, head.logit_scale,
        head.vocab, target.reshape(len(hidden), -1), 0.7, None, True, False,
    )  # fmt: skip


def test_the_op_passes_opcheck(backend_once):
    for kind in ("fp32+bias+softcap", "bf16"):
        head = linear.head(300, 16, kind)
        head.weight.requires_grad_()
        hidden, target = linear.inputs(5, head)
        op = backend_once.namespace.linear_logprob.default
        torch.library.opcheck(op, arguments(head, hidden.requires_grad_(), target))


def test_fake_tensors_have_the_shapes_of_real_ones(backend_once):
    hidden, head, target = example_inputs(5, 16, 300, targets=3)
    value, entropy = linear_logprob(hidden, head, target, entropy=True)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Head(mode.from_tensor(head.weight))
        made = linear_logprob(
            mode.from_tensor(hidden), fake, mode.from_tensor(target), entropy=True
        )
    assert [(m.shape, m.dtype) for m in made] == [(r.shape, r.dtype) for r in (value, entropy)]


def test_compiled_without_a_graph_break_forward_and_backward(backend_once):
    hidden, head, target = example_inputs(5, 16, 300)
    weight, bias = head.weight.requires_grad_(), torch.randn(300, requires_grad=True)
    hidden.requires_grad_()

    def loss(hidden, weight, bias, target):
        return linear_logprob(hidden, Head(weight, bias), target, temperature=0.9).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = (hidden, weight, bias)
    assert torch.equal(compiled(*inputs, target), loss(*inputs, target))
    expected = torch.autograd.grad(loss(*inputs, target), inputs)
    found = torch.autograd.grad(compiled(*inputs, target), inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
