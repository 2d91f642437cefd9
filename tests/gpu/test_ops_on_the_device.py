"""Every public op on tensors of the device, against float64 of the same rounded inputs."""

import functools
import operator

import pytest
import torch
import torch.nn.functional as F

import w2s_kernels as wk
from support.on_device import DTYPES, assert_right, exact, ids, linear_slack, random
from support.rounding import same_bits
from w2s_kernels.ops.extrapolate import example_inputs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (33, 1000), (7, 128256)])
def test_logprob_is_the_log_softmax(device, rows, vocab, dtype):
    logits, target = random(device, rows, vocab, dtype=dtype), ids(device, rows, vocab)
    assert_right(wk.logprob(logits, target), exact(logits, target))
    assert_right(wk.logprob(logits, target, temperature=0.7), exact(logits, target, 0.7))


def test_entropy_comes_in_the_same_call(device):
    logits, target = random(device, 9, 5000), ids(device, 9, 5000)
    law = F.log_softmax(logits.double(), dim=-1)
    value, entropy = wk.logprob(logits, target, entropy=True)
    assert_right(value, exact(logits, target))
    assert_right(entropy, -(law.exp() * law).sum(-1))


def test_an_ignored_target_gives_zero_and_an_invalid_one_nan(device):
    logits = random(device, 4, 100)
    target = torch.tensor([5, -100, -1, 107], device=device)
    value = wk.logprob(logits, target)
    assert value[1] == 0
    assert value.isnan().tolist() == [False, False, True, True]


def test_a_row_is_the_same_bits_in_any_batch(device):
    logits, target = random(device, 64, 32000), ids(device, 64, 32000)
    whole = wk.logprob(logits, target)
    alone = torch.cat([wk.logprob(logits[i : i + 1], target[i : i + 1]) for i in range(64)])
    assert torch.equal(whole, alone)


def test_vocabulary_shards_merge_to_the_whole_row(device):
    logits, target = random(device, 5, 12288), ids(device, 5, 12288)
    parts = [
        wk.logprob_stats(logits[:, start : start + 4096], target, vocab_start=start)
        for start in (0, 4096, 8192)
    ]
    assert_right(wk.finish_stats(wk.merge_stats(parts)), exact(logits, target))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_difference_of_a_pair_with_vocabularies_padded_differently(device, dtype):
    tuned, untuned = (
        random(device, 17, 49152, dtype=dtype),
        random(device, 17, 49280, dtype=dtype, seed=2),
    )
    target = ids(device, 17, 49152)
    value = wk.logprob_diff(tuned, untuned, target, valid_vocab=49152)
    assert_right(value, exact(tuned, target) - exact(untuned[:, :49152], target))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 16, 300])
def test_linear_logprob_from_hidden_states(device, rows, dtype):
    hidden = random(device, rows, 576, dtype=dtype, scale=1.0)
    weight = random(device, 4096, 576, dtype=dtype, scale=0.05, seed=3)
    target = ids(device, rows, 4096)
    reference = exact(hidden.double() @ weight.double().T, target)
    value = wk.linear_logprob(hidden, wk.Head(weight), target)
    assert_right(value, reference, linear_slack(hidden, weight))


def test_linear_logprob_diff_is_the_difference_of_two_heads(device):
    hidden = [random(device, 40, 128, scale=1.0, seed=s) for s in (4, 5)]
    weight = [random(device, 2000, 128, scale=0.05, seed=s) for s in (6, 7)]
    target = ids(device, 40, 2000)
    heads = [wk.Head(w) for w in weight]
    value = wk.linear_logprob_diff(hidden[0], heads[0], hidden[1], heads[1], target)
    one, two = (
        exact(h.double() @ w.double().T, target) for h, w in zip(hidden, weight, strict=True)
    )
    slack = linear_slack(hidden[0], weight[0]) + linear_slack(hidden[1], weight[1])
    assert_right(value, one - two, slack)


def test_gradients_are_those_of_float64(device):
    hidden = random(device, 12, 64, scale=1.0).requires_grad_()
    weight = random(device, 500, 64, scale=0.05, seed=8).requires_grad_()
    target = ids(device, 12, 500)
    wk.linear_logprob(hidden, wk.Head(weight), target).sum().backward()
    h, w = (t.detach().double().requires_grad_() for t in (hidden, weight))
    exact(h @ w.T, target).sum().backward()
    torch.testing.assert_close(hidden.grad.double(), h.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), w.grad, rtol=1e-5, atol=1e-5)


def in_order(numbers):
    return functools.reduce(operator.add, numbers, 0.0)


def test_a_score_does_not_depend_on_how_it_was_cut(device):
    diff = random(device, 60)
    numbers = diff.double().tolist()
    total = wk.segment_score(diff, torch.tensor([0, 10, 10, 60], device=device))
    assert total.dtype == torch.float64
    # The promised order is left to right (`sum` compensates from Python 3.12 on).
    assert total.tolist() == [in_order(numbers[:10]), 0.0, in_order(numbers[10:])]
    running = torch.zeros(1, dtype=torch.float64, device=device)
    for start in range(0, 60, 20):
        part = torch.tensor([0, 20], device=device)
        wk.segment_score_(running, diff[start : start + 20], part)
    assert torch.equal(running, wk.segment_score(diff, torch.tensor([0, 60], device=device)))


def guided_inputs(device, rows=16, vocab=5000):
    base, tuned, untuned = (random(device, rows, vocab, seed=s) for s in (10, 11, 12))
    return base, tuned, untuned


def test_guided_logits_add_the_weighted_difference(device):
    base, tuned, untuned = guided_inputs(device)
    value = wk.guided_logits(base, tuned, untuned, beta=0.5)
    reference = base.double() + 0.5 * (tuned.double() - untuned.double())
    torch.testing.assert_close(value.double(), reference, rtol=3e-7, atol=3e-6)


def test_sampling_at_temperature_zero_is_the_arg_max(device):
    base, tuned, untuned = guided_inputs(device)
    token, logprob = sample(device, base, tuned, untuned, temperature=0.0)
    guided = base.double() + tuned.double() - untuned.double()
    assert torch.equal(token.long(), guided.argmax(-1))
    assert (logprob == 0).all()


def test_draws_are_those_of_the_cpu_and_within_the_filter(device):
    base, tuned, untuned = guided_inputs(device, rows=64)
    settings = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
    token, logprob = sample(device, base, tuned, untuned, **settings)
    there, _ = sample(torch.device("cpu"), base.cpu(), tuned.cpu(), untuned.cpu(), **settings)
    # Backends agree but for roundings of exp, about one draw in 10⁶.
    assert (token.cpu() == there).sum() >= 63
    guided = base.double() + tuned.double() - untuned.double()
    allowed = guided.topk(50, dim=-1).indices
    assert (allowed == token[:, None]).any(-1).all()
    assert (logprob <= 0).all()


def sample(device, base, tuned, untuned, *, temperature, top_k=0, top_p=1.0):
    rows = base.shape[0]
    seed = torch.arange(rows, dtype=torch.int64, device=device)
    zero = torch.zeros(rows, dtype=torch.int64, device=device)
    return wk.guided_sample(
        base, tuned, untuned, beta=1.0, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=0.0, seed=seed, position=zero, candidate=zero, pad_id=0,
    )  # fmt: skip


def test_guided_topk_is_sorted_by_value_then_id(device):
    base, tuned, untuned = guided_inputs(device)
    logprob, token = wk.guided_topk(base, tuned, untuned, 20, beta=1.0)
    law = F.log_softmax(base.double() + tuned.double() - untuned.double(), dim=-1)
    reference = law.topk(20, dim=-1)
    assert torch.equal(token.long(), reference.indices)
    torch.testing.assert_close(logprob.double(), reference.values, rtol=1e-6, atol=1e-5)


def test_select_beams_takes_the_best_first(device):
    score = torch.tensor([[1.0, 3.0, 3.0, float("nan"), 2.0]], dtype=torch.float64, device=device)
    parent, kept, valid = wk.select_beams(score, 3)
    assert parent.tolist() == [[1, 2, 4]]
    assert kept.tolist() == [[3.0, 3.0, 2.0]]
    assert valid.all()


def test_gather_beams_moves_only_the_span_it_was_given(device):
    cache = random(device, 4, 2, 10, 8)
    before = cache.clone()
    parent = torch.tensor([1, 0, 2, 2], device=device)
    start = torch.tensor([3, 3, 0, 5], device=device)
    stop = torch.tensor([7, 7, 10, 10], device=device)
    wk.gather_beams_([cache], parent, start, stop)
    expected = before.clone()
    for row in range(4):
        span = slice(int(start[row]), int(stop[row]))
        expected[row, :, span] = before[int(parent[row]), :, span]
    assert torch.equal(cache, expected)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_extrapolated_weights_and_their_sums_are_the_cpus_bit_for_bit(device, dtype, rounding):
    theta1, theta0 = example_inputs(300, 70, dtype=dtype)
    theta1[5, :4] = torch.tensor([float("inf"), float("nan"), -0.0, 3e-5])
    alpha = torch.linspace(-1, 1, 300, dtype=torch.float64).round(decimals=1)
    for out_dtype in (torch.float64, *DTYPES):
        found, sums = [], []
        for place in (torch.device("cpu"), device):
            one, two, rows = (t.to(place) for t in (theta1, theta0, alpha))
            sums.append(torch.zeros(4, dtype=torch.float64, device=place))
            settings = {"rounding": rounding, "key": "w", "out_dtype": out_dtype, "start": 4090}
            found.append(wk.extrapolate(one, two, rows, **settings, sums=sums[-1]))
        assert same_bits(found[0], found[1].cpu())
        assert torch.equal(sums[0], sums[1].cpu())
