"""logprob_stats and merge_stats: what a shard reports, and that merged shards are the whole row."""

import itertools

import pytest
import torch
from torch import Tensor

import w2s_kernels
from support import float64, rows
from w2s_kernels.ops.logprob import tolerance

V = 3 * rows.LEAF + 77
LEAF = rows.LEAF


def shards_of(
    logits: Tensor, target: Tensor, cuts: list[int], **options: object
) -> list[tuple[Tensor, Tensor, Tensor]]:
    edges = [0, *cuts, logits.shape[-1]]
    return [
        w2s_kernels.logprob_stats(logits[..., a:b], target, vocab_start=a, **options)
        for a, b in itertools.pairwise(edges)
    ]


def hard() -> tuple[Tensor, Tensor]:
    logits = torch.stack(list(rows.hard_rows(V).values()))
    target = rows.random_targets(len(logits), V, per_row=3)
    target[:, 0], target[:, 1] = 0, V - 1
    return logits, target


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_statistics_are_what_they_say(backend, temperature, softcap):
    logits, target = hard()
    m, s, z_target = w2s_kernels.logprob_stats(
        logits, target, temperature=temperature, softcap=softcap
    )
    z = float64.effective(logits, softcap)
    assert (m.dtype, s.dtype, z_target.dtype) == (torch.float32, torch.float64, torch.float32)
    near = 4 * 2.0**-23 * softcap  # of a soft-capped logit; an uncapped one is exact
    assert float64.within(m, z.amax(-1), near)
    assert float64.within(z_target, z.gather(1, target), near)
    exact = torch.exp((z - m.double()[:, None]) / temperature).sum(-1)
    assert float64.within(s.log(), exact.log(), 2e-6 + near / temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-3, 0.7, 10.0])
def test_leaf_aligned_shards_merge_to_the_bits_of_the_whole_row(backend, dtype, temperature):
    logits, target = hard()
    logits = logits.to(dtype)
    whole = w2s_kernels.logprob(logits, target, temperature=temperature)
    m, s, z_target = w2s_kernels.logprob_stats(logits, target, temperature=temperature)
    for cuts in ([2 * LEAF], [LEAF, 2 * LEAF, 3 * LEAF]):
        parts = shards_of(logits, target, cuts, temperature=temperature)
        merged = w2s_kernels.merge_stats(parts, temperature=temperature)
        value = w2s_kernels.finish_stats(merged, target, temperature=temperature, vocab=V)
        assert torch.equal(value, whole)
        assert torch.equal(merged[0], m)
        assert torch.equal(merged[2], z_target)
        torch.testing.assert_close(merged[1], s, rtol=1e-15, atol=0)
        if len(cuts) == 3 and backend.isa is not None:
            assert torch.equal(merged[1], s)


@pytest.mark.parametrize("cuts", [[1], [100, 5000], [4095, 4097, 4098]])
def test_shards_cut_anywhere_merge_within_the_tolerance(backend, cuts):
    logits, target = hard()
    expected = float64.logprob(logits, target, temperature=0.7)
    merged = w2s_kernels.merge_stats(
        shards_of(logits, target, cuts, temperature=0.7), temperature=0.7
    )
    value = w2s_kernels.finish_stats(merged, target, temperature=0.7)
    assert float64.within(value, expected, tolerance(expected))


def test_a_shard_without_the_target_reports_minus_infinity(backend):
    logits = rows.random_rows(4, 100)
    target = torch.tensor([99, 100, 199, 200])
    _, _, z_target = w2s_kernels.logprob_stats(logits, target, vocab_start=100)
    assert z_target.isinf().tolist() == [True, False, False, True]
    assert z_target[1] == logits[1, 0]
    assert z_target[2] == logits[2, 99]
    ignored = w2s_kernels.logprob_stats(logits, torch.full((4,), -100))
    assert (ignored[2] == -rows.INF).all()


def test_a_fully_masked_shard_is_minus_infinity_and_zero_and_merges_away(backend):
    logits, target = rows.random_rows(3, V), torch.tensor([5, 6, 7])
    whole = w2s_kernels.logprob(logits, target)
    masked = torch.full((3, 50), -rows.INF)
    m, s, z_target = w2s_kernels.logprob_stats(masked, target, vocab_start=V)
    assert (m == -rows.INF).all()
    assert (s == 0).all()
    assert (z_target == -rows.INF).all()
    padding = w2s_kernels.logprob_stats(
        torch.full((3, 50), float("nan")), target, vocab_start=V, valid_vocab=0
    )
    parts = [*shards_of(logits, target, [rows.LEAF]), (m, s, z_target), padding]
    for order in (parts, parts[::-1]):
        assert torch.equal(w2s_kernels.finish_stats(w2s_kernels.merge_stats(order), target), whole)


def test_a_row_masked_in_every_shard_is_nan(backend):
    masked, target = torch.full((2, 50), -rows.INF), torch.tensor([5, -100])
    merged = w2s_kernels.merge_stats(shards_of(masked, target, [20]))
    assert merged[0].tolist() == [-rows.INF] * 2
    assert merged[1].tolist() == [0.0] * 2
    value = w2s_kernels.finish_stats(merged, target)
    assert value[0].isnan()
    assert value[1].item() == 0


def test_nan_or_positive_infinity_in_one_shard_makes_the_row_nan(backend):
    bad = torch.stack(list(rows.rows_without_logprob(V).values()))[1:]  # not the masked one
    target = torch.full((len(bad),), 3)
    merged = w2s_kernels.merge_stats(shards_of(bad, target, [rows.LEAF, 9000]))
    assert merged[0].isnan().all()
    assert merged[1].isnan().all()
    assert w2s_kernels.finish_stats(merged, target).isnan().all()


def test_invalid_targets_finish_as_nan_and_ignored_ones_as_zero(backend):
    logits = rows.random_rows(5, 100)
    target = torch.tensor([-100, -1, 100, 107, 5])
    stats = w2s_kernels.merge_stats(shards_of(logits, target, [40]))
    value = w2s_kernels.finish_stats(stats, target, vocab=100)
    torch.testing.assert_close(
        value, w2s_kernels.logprob(logits, target), rtol=0, atol=0, equal_nan=True
    )


def test_a_temperature_a_row_and_an_invalid_one(backend):
    logits, target = rows.random_rows(3, V), torch.tensor([5, 6, 7])
    temperature = torch.tensor([0.7, 0.0, 2.0])
    parts = shards_of(logits, target, [rows.LEAF], temperature=temperature)
    merged = w2s_kernels.merge_stats(parts, temperature=temperature)
    value = w2s_kernels.finish_stats(merged, target, temperature=temperature)
    whole = w2s_kernels.logprob(logits, target, temperature=temperature)
    torch.testing.assert_close(value, whole, rtol=0, atol=0, equal_nan=True)
    assert value.isnan().tolist() == [False, True, False]


def test_rows_do_not_depend_on_the_batch(backend):
    logits, target = hard()
    together = w2s_kernels.logprob_stats(logits, target)
    for i in range(0, len(logits), 5):
        alone = w2s_kernels.logprob_stats(logits[i], target[i])
        assert all(torch.equal(a[i], b) for a, b in zip(together, alone, strict=True))


def test_every_instruction_set_gives_the_same_bits(backends):
    logits, target = hard()
    found = []
    for backend in [b for b in backends if b.isa is not None]:
        with backend.forced():
            found.append(w2s_kernels.logprob_stats(logits, target, softcap=30.0, temperature=0.7))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("leading", [(), (2, 3), (0,)])
def test_any_leading_dimensions(backend, leading):
    logits, target = torch.randn(*leading, 11), torch.zeros(*leading, 2, dtype=torch.int32)
    parts = shards_of(logits, target, [4])
    assert parts[0][0].shape == parts[0][1].shape == torch.Size(leading)
    value = w2s_kernels.finish_stats(w2s_kernels.merge_stats(parts), target)
    expected = float64.logprob(logits, target)
    assert float64.within(value, expected, tolerance(expected))


def test_not_differentiable(backend):
    logits = rows.random_rows(2, 9).requires_grad_()
    stats = w2s_kernels.logprob_stats(logits, torch.tensor([1, 2]))
    merged = w2s_kernels.merge_stats([stats])
    assert not any(value.requires_grad for value in (*stats, *merged))
    assert not w2s_kernels.finish_stats(merged).requires_grad


def test_bad_statistics_are_refused_by_name():
    logits, target = rows.random_rows(2, 9), torch.tensor([1, 2])
    m, s, z = w2s_kernels.logprob_stats(logits, target)
    with pytest.raises(ValueError, match="parts must hold at least one"):
        w2s_kernels.merge_stats([])
    with pytest.raises(TypeError, match=r"parts\[1\].s must have dtype float64, got float32"):
        w2s_kernels.merge_stats([(m, s, z), (m, s.float(), z)])
    with pytest.raises(ValueError, match=r"parts\[1\].m must have shape \[2\]"):
        w2s_kernels.merge_stats([(m, s, z), (m[:1], s[:1], z[:1])])
    with pytest.raises(ValueError, match=r"stats.z_target must have shape"):
        w2s_kernels.finish_stats((m, s, z[:1]))
    with pytest.raises(ValueError, match="target must have shape"):
        w2s_kernels.finish_stats((m, s, z), target[:1])
    with pytest.raises(ValueError, match="vocab must be >= 1, got 0"):
        w2s_kernels.finish_stats((m, s, z), target, vocab=0)
    with pytest.raises(ValueError, match="vocab_start must be >= 0, got -1"):
        w2s_kernels.logprob_stats(logits, target, vocab_start=-1)
    with pytest.raises(ValueError, match=r"valid_vocab must lie in \[0, 9\], got 10"):
        w2s_kernels.logprob_stats(logits, target, valid_vocab=10)
