"""guided_sample: what a draw depends on, across batches, threads, backends and instruction sets."""

import math

import pytest
import torch

from support.draws import SETTINGS, keys, sample_one_row
from support.guided import filtered_law
from w2s_kernels import dispatch, guided_sample
from w2s_kernels.ops.guided_logits import example_inputs


def test_a_draw_does_not_depend_on_the_batch_nor_on_threads(backend):
    inputs, key = example_inputs(24, 1300), keys(24)
    for filters in ({}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.8, "min_p": 0.01}):
        token, logprob = guided_sample(*inputs, **key, **filters)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
            for part in (order, order[:7], order[3:4]):
                got = guided_sample(
                    *(x[part] for x in inputs), **{n: v[part] for n, v in key.items()}, **filters
                )
                assert torch.equal(got[0], token[part])
                assert torch.equal(got[1], logprob[part])
        finally:
            torch.set_num_threads(before)


def test_instruction_sets_give_the_same_bits(isas):
    inputs, key = example_inputs(16, 30000), keys(16)
    before = torch.ops.w2s_library.isa()
    try:
        for filters in SETTINGS:
            results = []
            for isa in isas:
                torch.ops.w2s_library.set_isa(isa)
                results.append(guided_sample(*inputs, **key, **filters))
            for other in results[1:]:
                assert all(map(torch.equal, other, results[0]))
    finally:
        torch.ops.w2s_library.set_isa(before)


def test_backends_differ_by_roundings_of_exp_at_most(isas):
    draws = 100_000
    inputs = example_inputs(50, 60, seed=4)
    row = torch.arange(draws) % 50
    results = []
    for backend in ("cpu", "reference"):
        with dispatch.use(backend):
            results.append(guided_sample(*inputs, row=row, **keys(draws)))
    different = int((results[0][0] != results[1][0]).sum())
    assert different <= 1, f"{different} of {draws} tokens differ"
    assert float((results[0][1] - results[1][1]).abs().max()) <= 1e-6 or different


CHI_SQUARE = [
    {"top_k": 20, "top_p": 0.95, "min_p": 0.01},
    *(pytest.param(filters, marks=pytest.mark.slow)
      for filters in ({}, {"top_k": 10}, {"top_p": 0.8, "temperature": 1.5}, {"min_p": 0.05})),
]  # fmt: skip


@pytest.mark.parametrize("filters", CHI_SQUARE, ids=str)
def test_many_draws_have_the_laws_frequencies(backend_once, filters):
    draws, vocab = 100_000, 40
    z = torch.randn(vocab, generator=torch.Generator().manual_seed(2)) * 1.5
    token, _ = sample_one_row(z, draws, seed=torch.full((draws,), 1234), candidate=None, **filters)
    law = filtered_law(z.numpy(), **filters)
    expected = torch.tensor(law.weight, dtype=torch.float64) / sum(law.weight) * draws
    counts = torch.bincount(token, minlength=vocab).double()
    assert bool((counts[expected == 0] == 0).all())
    inside = expected > 0
    chi_square = float((((counts - expected) ** 2)[inside] / expected[inside]).sum())
    freedom = int(inside.sum()) - 1
    # Five standard deviations: at a fixed seed this either holds for ever or the law is wrong.
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_all_words_of_the_key_count(backend):
    z = torch.zeros(1000)
    base = {"seed": 5, "position": 3, "candidate": 2}
    changed = [
        {}, {"seed": 5 + 2**32}, {"seed": 6}, {"seed": -5}, {"position": 4}, {"candidate": 3},
        {"position": 2, "candidate": 3},
    ]  # fmt: skip
    tokens = [
        int(sample_one_row(z, 1, **{n: torch.tensor([v]) for n, v in (base | c).items()})[0])
        for c in changed
    ]
    assert len(set(tokens)) == len(changed)
    as_int32 = {n: torch.tensor([v], dtype=torch.int32) for n, v in base.items() if n != "seed"}
    assert int(sample_one_row(z, 1, seed=torch.tensor([5]), **as_int32)[0]) == tokens[0]
    zero = {**base, "candidate": 0}
    zeros = {n: torch.tensor([v]) for n, v in zero.items()}
    none = zeros | {"candidate": None}
    assert int(sample_one_row(z, 1, **none)[0]) == int(sample_one_row(z, 1, **zeros)[0])
