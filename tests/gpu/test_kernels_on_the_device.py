"""What only a device can show of the kernels: graphs, far rows, no host waits, and hard values."""

import contextlib
from unittest import mock

import pytest
import torch

import w2s
import w2s.loop
import w2s_kernels as wk
from support.on_device import (
    DTYPES,
    PROMPTS,
    assert_right,
    exact,
    ids,
    linear_slack,
    random,
    tiny,
)

pytestmark = pytest.mark.gpu
NAN, INF = float("nan"), float("inf")


def pair(device, rows=8, vocab=50257, dtype=torch.bfloat16):
    logits = [random(device, rows, vocab, dtype=dtype, seed=s) for s in (20, 21)]
    return *logits, ids(device, rows, vocab)


def heads(device, rows=8, vocab=5000, dim=256, dtype=torch.bfloat16):
    hidden = [random(device, rows, dim, dtype=dtype, scale=1.0, seed=s) for s in (22, 23)]
    weight = [random(device, vocab, dim, dtype=dtype, scale=0.05, seed=s) for s in (24, 25)]
    return hidden, weight, ids(device, rows, vocab)


def linear_diff(hidden, weight, target, **options):
    one, two = (wk.Head(w) for w in weight)
    return wk.linear_logprob_diff(hidden[0], one, hidden[1], two, target, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_rows_have_the_values_they_must(device, dtype):
    """A first tile of −inf, one finite logit, all −inf, +inf, NaN, an offset of 10⁴."""
    vocab = 50257
    logits = random(device, 6, vocab, dtype=dtype)
    logits[0, :8192] = -INF
    logits[1] = -INF
    logits[1, 77] = 3.0
    logits[2] = -INF
    logits[3, 40000] = INF
    logits[4, 9] = NAN
    logits[5] = logits[5] / 4 + 10000
    target = torch.tensor([50000, 77, 5, 6, 7, 100], device=device)
    value = wk.logprob(logits, target)
    assert_right(value[[0, 1, 5]], exact(logits, target)[[0, 1, 5]])
    assert value[[2, 3, 4]].isnan().all()


@pytest.mark.parametrize("temperature", [1e-3, 0.7, 10.0])
def test_temperature_divides_after_the_subtraction(device, temperature):
    logits = random(device, 33, 32000) + 1e4
    target = ids(device, 33, 32000)
    z = logits.double()
    reference = ((z - z.amax(-1, keepdim=True)) / temperature).log_softmax(-1)
    reference = reference.gather(-1, target[:, None])[:, 0]
    assert_right(wk.logprob(logits, target, temperature=temperature), reference)


def test_a_difference_is_antisymmetric_and_zero_with_itself_bit_for_bit(device):
    tuned, untuned, target = pair(device, rows=33)
    there, back = wk.logprob_diff(tuned, untuned, target), wk.logprob_diff(untuned, tuned, target)
    assert torch.equal(there, -back)
    assert (wk.logprob_diff(tuned, tuned, target) == 0).all()


def test_rows_beyond_2_to_the_31_elements_are_read_where_they_are(device):
    if device.type != "cuda":
        pytest.skip("takes 4 GiB of a device's memory")
    vocab, stride = 1000, 2**31 // 2 + 64
    memory = torch.zeros(2 * stride + vocab, dtype=torch.bfloat16, device=device)
    logits = memory.as_strided((3, vocab), (stride, 1))
    logits.copy_(random(device, 3, vocab, dtype=torch.bfloat16))
    target = ids(device, 3, vocab)
    assert_right(wk.logprob(logits, target), exact(logits, target))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_a_pair_are_those_of_float64(device, dtype):
    tuned, untuned, target = pair(device, dtype=dtype)
    target[1] = -100
    logits = [tuned.requires_grad_(), untuned.requires_grad_()]
    wk.logprob_diff(*logits, target).sum().backward()
    wide = [z.detach().double().requires_grad_() for z in logits]
    keep = (target >= 0).double()
    safe = target.clamp(min=0)
    ((exact(wide[0], safe) - exact(wide[1], safe)) * keep).sum().backward()
    rounding = torch.finfo(dtype).eps
    for ours, theirs in zip(logits, wide, strict=True):
        assert (ours.grad[1] == 0).all()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 16, 64, 300])
def test_invariant_rows_are_the_same_bits_in_any_batch(device, rows):
    hidden, weight, target = heads(device, rows=rows)
    whole = linear_diff(hidden, weight, target, invariant=True)
    alone = linear_diff([h[-1:] for h in hidden], weight, target[-1:], invariant=True)
    assert torch.equal(whole[-1:], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 16, 64, 65, 300])
def test_a_pair_of_heads_is_right_for_few_and_many_rows(device, rows, dtype):
    hidden, weight, target = heads(device, rows=rows, dtype=dtype)
    one, two = (
        exact(h.double() @ w.double().T, target) for h, w in zip(hidden, weight, strict=True)
    )
    slack = sum(linear_slack(h, w) for h, w in zip(hidden, weight, strict=True))
    assert_right(linear_diff(hidden, weight, target), one - two, slack)


def calls(device):
    """Ops of the log-prob family with nothing left to choose: name → (call, inputs)."""
    tuned, untuned, target = pair(device)
    hidden, weight, head_target = heads(device)
    return {
        "logprob": (wk.logprob, (tuned, target)),
        "logprob_diff": (wk.logprob_diff, (tuned, untuned, target)),
        "linear_logprob_diff": (
            lambda a, b, t: linear_diff((a, b), weight, t),
            (*hidden, head_target),
        ),
    }


@pytest.mark.parametrize("op", ["logprob", "logprob_diff", "linear_logprob_diff"])
def test_an_op_is_captured_in_a_graph_and_replayed_on_new_inputs(device, op):
    if device.type != "cuda":
        pytest.skip("graphs are a CUDA device's")
    call, inputs = calls(device)[op]
    call(*inputs)  # compiled before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(*inputs)
    inputs[0].copy_(inputs[0].flip(0))
    graph.replay()
    assert torch.equal(captured, call(*inputs))


@pytest.mark.parametrize("op", ["logprob", "logprob_diff", "linear_logprob_diff"])
def test_an_op_compiles_without_a_break_and_gives_the_same_bits(device, op):
    call, inputs = calls(device)[op]
    compiled = torch.compile(call, fullgraph=True, dynamic=False)
    assert torch.equal(compiled(*inputs), call(*inputs))


@contextlib.contextmanager
def no_waits(device):
    """Whatever makes the host wait for the device is an error inside."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_question_to_the_device_is_an_error_in_here(device):
    if device.type != "cuda":
        pytest.skip("nothing waits on a CPU")
    value = torch.ones(1, device=device)
    with no_waits(device), pytest.raises(RuntimeError, match="synchroniz"):
        value.item()


@pytest.mark.parametrize("op", ["logprob", "logprob_diff", "linear_logprob_diff"])
def test_no_op_makes_the_host_wait(device, op):
    call, inputs = calls(device)[op]
    call(*inputs)
    with no_waits(device):
        call(*inputs)


def test_the_rounds_of_a_search_never_make_the_host_wait(device):
    """Around the loop alone: before it prompts go to the device, after it results come back."""
    run, rounds = w2s.loop._run, []

    def watched(*arguments):
        with no_waits(device):
            run(*arguments)
        rounds.append(arguments)

    large, tuned, untuned = (tiny(device, seed) for seed in (1, 2, 3))
    plan = w2s.SearchPlan(width=4, samples=4, chunk=5, max_new_tokens=40, seed=3)

    def search():
        proposer = w2s.LocalProposer(large, plan)
        return w2s.search(PROMPTS, proposer, w2s.PairScorer(tuned, untuned, plan), plan)

    expected = search()  # kernels and workspaces of libraries are made in the first one
    with mock.patch.object(w2s.loop, "_run", watched):
        found = search()
    assert len(rounds) == 1
    assert [r.best.tokens for r in found] == [r.best.tokens for r in expected]
