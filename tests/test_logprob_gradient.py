"""Gradients of logprob against float64 autograd, and what torch asks of an op that has one."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import w2s_kernels
from support import float64, rows

V = rows.LEAF + 100


# |error| ≤ this × the largest gradient that enters the row (Σ|g| and |g_H|·max|log p| over T): a
# few fp32 roundings, of exp, of x = (z − m)/T and of the product; and p's own error from the
# rounding of the softcap, which numerics.md allows as 4·2⁻²³·softcap/T.
def relative(softcap: float, divisor: float | Tensor) -> float | Tensor:
    return 2e-6 + 4 * 2.0**-23 * softcap / divisor


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("temperature", "softcap"),
    [(1e-3, 0.0), (0.7, 30.0), ("rows", 0.0),
     *(pytest.param(t, c, marks=SLOW) for t, c in (
         (1e-3, 30.0), (0.7, 0.0), (1.0, 0.0), (1.0, 30.0), (10.0, 0.0), (10.0, 30.0),
         ("rows", 30.0),
     ))],
)  # fmt: skip
def test_gradients_equal_float64_autograd(backends, temperature, softcap):
    logits = torch.stack(list(rows.hard_rows(V).values()))
    n = len(logits)
    target = rows.random_targets(n, V, per_row=3)
    target[:, 2] = target[:, 0]  # a column named twice gets both gradients
    target[0, 1] = -100
    weight = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    weight_h = torch.randn(n, generator=torch.Generator().manual_seed(2))
    t = torch.linspace(0.5, 3, n) if temperature == "rows" else temperature
    divisor = t[:, None] if isinstance(t, Tensor) else t
    allowed = relative(softcap, divisor) / divisor

    exact = logits.double().requires_grad_()
    q = float64.log_softmax(exact, temperature=t, softcap=softcap)
    values, entropies = float64.pick(q, target), float64.entropy_of(q)
    (of_value,) = torch.autograd.grad(values, exact, weight.double(), retain_graph=True)
    (of_entropy,) = torch.autograd.grad(entropies, exact, weight_h.double())
    limit = (weight.abs().sum(1, keepdim=True) * allowed).expand_as(exact)
    # p·|log p| ≤ 1/e, but x = (z − m)/T enters with its own rounding: allow for log V.
    limit_h = (10 * weight_h.abs()[:, None] * allowed).expand_as(exact)

    ours = logits.clone().requires_grad_()
    for backend in backends:
        with backend.forced():
            value, h = w2s_kernels.logprob(
                ours, target, temperature=t, softcap=softcap, entropy=True
            )
            (gradient,) = torch.autograd.grad(value, ours, weight, retain_graph=True)
            assert float64.within(gradient, of_value, limit), backend
            (gradient,) = torch.autograd.grad(h, ours, weight_h)
            assert float64.within(gradient, of_entropy, limit_h), backend


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_rounded_once_to_the_logits_dtype(backend, dtype):
    logits = rows.random_rows(3, V, dtype=dtype).requires_grad_()
    target = rows.random_targets(3, V)
    (ours,) = torch.autograd.grad(w2s_kernels.logprob(logits, target).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    (theirs,) = torch.autograd.grad(float64.logprob(exact, target).sum(), exact)
    assert ours.dtype == dtype
    assert float64.within(ours, theirs, theirs.abs() * torch.finfo(dtype).eps * 0.51 + 1e-6)


def test_ignored_rows_have_exactly_zero_gradient_even_with_nan(backend):
    logits = rows.random_rows(4, V)
    logits[1, 7] = float("nan")
    logits[2] = -rows.INF
    logits.requires_grad_()
    target = torch.tensor([-100, -100, -100, 3])
    (gradient,) = torch.autograd.grad(w2s_kernels.logprob(logits, target).sum(), logits)
    assert (gradient[:3] == 0).all()
    assert gradient[3].abs().sum() > 0


def test_ignored_rows_do_not_pollute_a_mean(backend):
    logits = rows.random_rows(4, V).requires_grad_()
    target = torch.tensor([5, -100, 9, -100])
    loss = w2s_kernels.logprob(logits, target).sum() / (target != -100).sum()
    expected = float64.logprob(logits[::2].detach(), target[::2]).mean()
    assert abs(loss.item() - expected.item()) < 4e-6


@pytest.mark.parametrize("bad", [-1, V, V + 7])
def test_an_invalid_target_makes_its_row_s_gradient_nan(backend, bad):
    logits = rows.random_rows(2, V).requires_grad_()
    value = w2s_kernels.logprob(logits, torch.tensor([bad, 1]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient[0].isnan().all()
    assert gradient[1].isfinite().all()


def test_a_nan_row_has_a_nan_gradient_and_others_their_own(backend):
    logits = rows.random_rows(2, V)
    logits[0, 0] = float("nan")
    logits.requires_grad_()
    value = w2s_kernels.logprob(logits, torch.tensor([1, 1]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient[0].isnan().all()
    assert gradient[1].isfinite().all()


def test_padding_gets_zero_gradient(backend):
    logits = rows.random_rows(2, V)
    logits[:, 4000:] = float("nan")
    logits.requires_grad_()
    value, h = w2s_kernels.logprob(logits, torch.tensor([1, 2]), valid_vocab=4000, entropy=True)
    (gradient,) = torch.autograd.grad(value.sum() + h.sum(), logits)
    assert (gradient[:, 4000:] == 0).all()
    assert gradient[:, :4000].isfinite().all()


def test_inputs_are_not_written_and_gradients_repeat(backend):
    logits = rows.random_rows(3, V).requires_grad_()
    before = logits.detach().clone()
    target = rows.random_targets(3, V)
    value = w2s_kernels.logprob(logits, target)
    first, second = (
        torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(logits, before)


def test_a_gradient_of_a_gradient_is_refused(backend):
    logits = rows.random_rows(1, 9).requires_grad_()
    value = w2s_kernels.logprob(logits, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(gradient.square().sum(), logits)


CASES = {
    "logprob": lambda f, t: (f(3, 9), t(3, 2), 0.7, None, 0.0, 9, True),
    "logprob temperature rows": lambda f, t: (f(3, 9), t(3, 1), 1.0, torch.ones(3), 30.0, 8, False),
    "logprob empty": lambda f, t: (f(0, 9), t(0, 1), 1.0, None, 0.0, 9, True),
    "logprob_diff": lambda f, t: (
        f(3, 9), f(3, 12), t(3, 2), 1.0, 0.7, None, torch.ones(3), 0.0, 30.0, 9, 10,
    ),
    "logprob_stats": lambda f, t: (f(3, 9).detach(), t(3, 2), 0.7, None, 0.0, 8, 4),
    "merge_stats": lambda f, t: (f(2, 3).detach(), f(2, 3).detach().double().exp(), 0.7, None),
    "finish_stats": lambda f, t: (
        f(3).detach(), f(3).detach().double().exp(), f(3, 2).detach(), t(3, 2), 1.0, None, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_opcheck(backend_once, case):
    generator = torch.Generator().manual_seed(0)

    def floats(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    def targets(*shape: int) -> Tensor:
        return torch.randint(8, shape, generator=generator)

    w2s_kernels.logprob_diff, w2s_kernels.logprob_stats  # noqa: B018  define the ops
    op = getattr(backend_once.namespace, case.split(" ")[0]).default
    torch.library.opcheck(op, CASES[case](floats, targets))


def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(backend_once):
    with FakeTensorMode():
        logits = torch.empty(2, 3, 9, dtype=torch.bfloat16, requires_grad=True)
        target = torch.empty(2, 3, 4, dtype=torch.int32)
        value, h = w2s_kernels.logprob(logits, target, entropy=True)
        (gradient,) = torch.autograd.grad(value.sum() + h.sum(), logits)
        assert (value.shape, value.dtype) == ((2, 3, 4), torch.float32)
        assert (h.shape, h.dtype) == ((2, 3), torch.float32)
        assert (gradient.shape, gradient.dtype) == (logits.shape, logits.dtype)
        diff = w2s_kernels.logprob_diff(logits, logits, target)
        m, s, z_target = w2s_kernels.logprob_stats(logits, target)
        assert diff.shape == z_target.shape == target.shape
        assert (m.dtype, s.dtype, m.shape) == (torch.float32, torch.float64, (2, 3))


def everything(logits: Tensor, untuned: Tensor, target: Tensor, rows_t: Tensor) -> Tensor:
    value, h = w2s_kernels.logprob(logits, target, temperature=rows_t, entropy=True)
    stats = w2s_kernels.merge_stats([w2s_kernels.logprob_stats(logits, target)])
    done = w2s_kernels.finish_stats(stats, target, vocab=logits.shape[-1])
    return value + h + w2s_kernels.logprob_diff(logits, untuned, target, softcap=30.0) + done


@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compiled_without_a_graph_break_and_with_the_same_bits(backend_once, compiler):
    compiled = torch.compile(everything, fullgraph=True, backend=compiler, dynamic=True)
    for n in (3, 5):
        logits = rows.random_rows(n, 100).requires_grad_()
        untuned = rows.random_rows(n, 128, seed=1)
        arguments = (logits, untuned, rows.random_targets(n, 100), torch.full((n,), 0.7))
        value, expected = compiled(*arguments), everything(*arguments)
        # The sum around the ops may be fused differently; what the ops give may not.
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        (ours,) = torch.autograd.grad(value.sum(), logits)
        (theirs,) = torch.autograd.grad(expected.sum(), logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_compiles_when_the_first_call_ever_is_inside_the_compiled_function():
    program = (
        "import torch, w2s_kernels\n"
        "f = torch.compile(lambda z, t: w2s_kernels.logprob(z, t), fullgraph=True,"
        " backend='aot_eager')\n"
        "z, t = torch.randn(3, 9), torch.tensor([1, 2, 3])\n"
        "assert torch.equal(f(z, t), w2s_kernels.logprob(z, t))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
