"""guided_sample: exact against the integer rule in Python integers, and the promises around it."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support import guided as rules
from support.draws import INF, NAN, SETTINGS, exp_of, keys, sample_one_row
from support.guided import draw_of, filtered_law, guided_row
from w2s_kernels import dispatch, guided_sample
from w2s_kernels.ops import _philox
from w2s_kernels.ops import guided_sample as op
from w2s_kernels.ops.guided_logits import example_inputs


def assert_follows_the_rules(backend, inputs, draws, beta, filters):
    """Every token is the rule's, every log-prob within tolerance of log(w / Σw)."""
    rows = inputs[0].shape[0]
    key = keys(draws, seed=inputs[0].shape[1])
    row = torch.arange(draws) % rows
    token, logprob = guided_sample(*inputs, beta=beta, row=row, **key, **filters)
    assert (token.dtype, logprob.dtype) == (torch.int64, torch.float32)
    laws = [
        filtered_law(guided_row(*r, beta), exp=exp_of(backend), **filters)
        for r in zip(*inputs, strict=True)
    ]
    for i in range(draws):
        law = laws[i % rows]
        words = (int(key[name][i]) for name in ("seed", "position", "candidate"))
        assert int(token[i]) == law.token(draw_of(*words))
        wanted = torch.tensor(law.logprob(int(token[i])), dtype=torch.float64)
        assert bool((logprob[i] - wanted).abs() <= op.tolerance(wanted))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, words):
    assert rules.philox4x32(counter, key) == words
    as_tensors = [[torch.tensor([w]) for w in part] for part in (counter, key)]
    got = _philox.philox4x32(tuple(as_tensors[0]), tuple(as_tensors[1]))
    assert [int(w) for w in got] == words


@settings(max_examples=300, deadline=None)
@given(
    p=st.floats(0, 1, exclude_min=True, exclude_max=True),
    total=st.integers(1, 2**63 - 1),
    draw=st.integers(0, 2**64 - 1),
)
def test_wide_products_are_exact(p, total, draw):
    total_t = torch.tensor([total])
    share = _philox.ceil_share(torch.tensor([p], dtype=torch.float64), total_t)
    assert int(share) == math.ceil(Fraction(p) * total)
    words = (torch.tensor([draw >> 32]), torch.tensor([draw & 0xFFFFFFFF]))
    assert int(_philox.mulhi(words, total_t)) == draw * total >> 64


@pytest.mark.parametrize("vocab", [1, 2, 7, 127, 128, 1000])
def test_tokens_follow_the_integer_rule(backend, vocab):
    inputs = example_inputs(2, vocab, seed=vocab)
    for filters in SETTINGS:
        assert_follows_the_rules(backend, inputs, 16, 0.8, filters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_follow_the_rule_too(backend, dtype):
    inputs = example_inputs(2, 1000, dtype=dtype)
    for filters in SETTINGS:
        assert_follows_the_rules(backend, inputs, 8, -0.6, filters)


@pytest.mark.parametrize(
    "vocab", [pytest.param(v, marks=pytest.mark.slow) if v > 5e4 else v
              for v in (32000, 49152, 50257, 128256, 151936, 262144)],
)  # fmt: skip
def test_large_vocabularies_follow_the_rule(backend_once, vocab):
    inputs = example_inputs(1, vocab, seed=vocab)
    for filters in (SETTINGS[4], SETTINGS[6]):
        assert_follows_the_rules(backend_once, inputs, 4, 1.0, filters)


@pytest.mark.slow
@pytest.mark.parametrize("filters", SETTINGS, ids=str)
def test_large_rows_of_every_shape_follow_the_rule(backend, filters):
    vocab = 20000
    rows = {
        "flat": torch.zeros(vocab),
        "two levels": (torch.arange(vocab) % 3 == 0).float(),
        "narrow": torch.randn(vocab) / 100,
        "rising": torch.linspace(-20, 20, vocab),
        "offset": torch.randn(vocab) * 4 + 1e4,
        "masked start": torch.randn(vocab).index_fill(0, torch.arange(5000), -INF),
        "one-hot": torch.zeros(vocab).index_fill(0, torch.tensor([vocab - 1]), 12.0),
    }
    base = torch.stack(list(rows.values()))
    zero = torch.zeros(len(rows), vocab)
    assert_follows_the_rules(backend, (base, zero, zero), 28, 1.0, filters)


def test_temperature_zero_is_the_first_maximum_with_logprob_zero(backend):
    z = torch.zeros(3, 3000)
    z[1, 1500] = z[1, 2000] = 1.0
    z[2, :] = -INF
    z[2, 2999] = -5.0
    token, logprob = guided_sample(z, temperature=0, top_p=0.5, min_p=0.5, **keys(3))
    assert token.tolist() == [0, 1500, 2999]
    assert logprob.tolist() == [0.0, 0.0, 0.0]
    signed = torch.tensor([[-1.0, -0.0, 0.0]])
    assert int(guided_sample(signed, temperature=0, **keys(1))[0]) == 1, "-0 and +0 are one value"


@pytest.mark.parametrize("k", [1, 3, 50, 700])
def test_top_k_keeps_exactly_k_and_ties_go_to_the_lower_id(backend, k):
    draws = min(40 * k, 600)
    token, logprob = sample_one_row(torch.zeros(3000), draws, top_k=k)
    assert int(token.max()) < k
    assert token.unique().numel() == k if k <= 50 else token.unique().numel() > 0.5 * k
    # Exactly k: one fewer or more would show here.
    assert torch.allclose(logprob, torch.tensor(-math.log(k)))
    z = torch.zeros(3000)
    z[2990:] = 1.0  # ten above, then ties
    assert sample_one_row(z, 200, top_k=12, temperature=10.0)[0].unique().tolist() == [
        0, 1, *range(2990, 3000),
    ]  # fmt: skip


def test_filters_that_are_off_change_nothing(backend):
    inputs, key = example_inputs(8, 900), keys(8)
    plain = guided_sample(*inputs, **key)
    for filters in (
        {"top_k": 0}, {"top_k": 900}, {"top_k": 10**6}, {"top_p": 1.0}, {"min_p": 0.0},
        {"top_p": torch.ones(8)}, {"top_k": torch.full((8,), 900)},
    ):  # fmt: skip
        assert all(map(torch.equal, guided_sample(*inputs, **key, **filters), plain))


def test_the_first_is_always_kept(backend):
    z = torch.randn(600, generator=torch.Generator().manual_seed(1))
    for filters in ({"top_p": 1e-12}, {"top_p": 5e-324}, {"min_p": 1.0}, {"top_k": 1}):
        token, logprob = sample_one_row(z, 20, **filters)
        assert bool((token == z.argmax()).all())
        assert bool((logprob == 0).all())


def test_top_p_counts_ties_one_by_one(backend):
    # 1000 equal weights: ceil(0.25·Σw) is reached by exactly 250 of them, the lowest ids.
    _, logprob = sample_one_row(torch.zeros(1000), 50, top_p=0.25)
    assert torch.allclose(logprob, torch.tensor(-math.log(250)))
    just_more = math.nextafter(0.25, 1)
    token, logprob = sample_one_row(torch.zeros(1000), 600, top_p=just_more)
    assert torch.allclose(logprob, torch.tensor(-math.log(251)), rtol=1e-6)
    assert int(token.max()) in (249, 250)


def test_min_p_is_relative_to_the_largest(backend):
    z = torch.tensor([0.0, -1.0, -2.0, -3.0, 0.0])
    assert sample_one_row(z, 2000, min_p=0.1)[0].unique().tolist() == [0, 1, 2, 4]
    assert sample_one_row(z, 2000, min_p=1.0)[0].unique().tolist() == [0, 4]


BAD = {
    "nan": [1.0, NAN, 0.0],
    "nan last": [0.0] * 40 + [NAN],
    "+inf": [1.0, INF, 0.0],
    "all masked": [-INF] * 20,
    "nan among masked": [-INF, NAN],
}


@pytest.mark.parametrize("filters", [*SETTINGS, {"temperature": 0}], ids=str)
@pytest.mark.parametrize("row", BAD.values(), ids=list(BAD))
def test_a_row_without_a_law_gives_pad_and_nan(backend, row, filters):
    token, logprob = guided_sample(torch.tensor([row]), pad_id=7, **keys(1), **filters)
    assert token.tolist() == [7]
    assert bool(logprob.isnan().all())


def test_a_bad_row_leaves_its_neighbours_alone(backend):
    z = torch.randn(5, 400, generator=torch.Generator().manual_seed(3))
    clean = guided_sample(z, top_k=5, **keys(5))
    z[2, 100] = NAN
    token, logprob = guided_sample(z, top_k=5, pad_id=-1, **keys(5))
    others = [0, 1, 3, 4]
    assert torch.equal(token[others], clean[0][others])
    assert torch.equal(logprob[others], clean[1][others])
    assert (int(token[2]), bool(logprob[2].isnan())) == (-1, True)


def test_masks_of_a_pair(backend):
    base, tuned, untuned = torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 4)
    base[0, 0] = tuned[0, 1] = -INF
    untuned[1, 2] = -INF  # untuned alone: the row is NaN
    untuned[2, 2] = base[2, 2] = -INF
    row = torch.arange(3).repeat_interleave(200)
    key = keys(600)
    token, logprob = guided_sample(base, tuned, untuned, row=row, pad_id=9, **key)
    assert set(token[:200].tolist()) == {2, 3}
    assert set(token[200:400].tolist()) == {9}
    assert bool(logprob[200:400].isnan().all())
    assert set(token[400:].tolist()) == {0, 1, 3}


def test_beta_zero_reads_the_base_only(backend):
    base, key = torch.randn(6, 90), keys(6)
    broken = torch.full((6, 40), NAN)
    alone = guided_sample(base, **key)
    assert all(map(torch.equal, guided_sample(base, broken, broken, beta=0.0, **key), alone))
    betas = torch.zeros(6)
    assert all(map(torch.equal, guided_sample(base, broken, broken, beta=betas, **key), alone))


def test_a_setting_per_row_equals_that_setting_alone(backend):
    inputs, key = example_inputs(6, 1100), keys(6)
    per_row = {
        "beta": [0.0, 1.0, -1.0, 0.5, 2.0, 1.0],
        "temperature": [1.0, 0.0, 0.7, 10.0, 1e-3, 1.0],
        "top_k": [0, 50, 1, 1100, 2000, 7],
        "top_p": [1.0, 0.9, 0.1, 0.5, 1.0, 0.99],
        "min_p": [0.0, 0.1, 0.0, 1.0, 0.2, 0.0],
    }
    double = torch.float64
    tensors = {
        name: torch.tensor(values, dtype=torch.int32 if name == "top_k" else double)
        for name, values in per_row.items()
    }
    token, logprob = guided_sample(*inputs, **key, **tensors)
    for i in range(6):
        one = guided_sample(
            *(x[i : i + 1] for x in inputs),
            **{name: value[i : i + 1] for name, value in key.items()},
            **{name: values[i] for name, values in per_row.items()},
        )
        assert (int(token[i]), float(logprob[i])) == (int(one[0]), float(one[1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("temperature", NAN), ("temperature", INF), ("top_p", 0.0),
     ("top_p", 1.5), ("top_p", NAN), ("min_p", -0.1), ("min_p", 1.1), ("beta", NAN)],
)  # fmt: skip
def test_a_tensor_entry_out_of_range_spoils_only_its_row(backend, name, value):
    inputs, key = example_inputs(3, 50), keys(3)
    fine = {"temperature": 1.0, "top_p": 0.9, "min_p": 0.1, "beta": 1.0}[name]
    token, logprob = guided_sample(*inputs, pad_id=3, **{name: torch.tensor([fine, value, fine])},
                                   **key)  # fmt: skip
    wanted = guided_sample(*inputs, **{name: torch.full((3,), fine)}, **key)
    assert (int(token[1]), bool(logprob[1].isnan())) == (3, True)
    for i in (0, 2):
        assert (int(token[i]), float(logprob[i])) == (int(wanted[0][i]), float(wanted[1][i]))


def test_draws_that_share_a_row_are_those_of_its_copies(backend):
    inputs, key = example_inputs(3, 2500), keys(12)
    row = torch.tensor([0, 0, 0, 0, 2, 2, 1, 1, 0, 0, 5, -1], dtype=torch.int32)
    ks = torch.tensor([5, 5, 50, 5, 0, 0, 1, 1, 5, 5, 5, 5])
    token, logprob = guided_sample(*inputs, row=row, top_k=ks, top_p=0.95, pad_id=77, **key)
    copies = [x[row[:10].long()] for x in inputs]
    wanted = guided_sample(
        *copies, top_k=ks[:10], top_p=0.95, **{n: v[:10] for n, v in key.items()}
    )
    assert torch.equal(token[:10], wanted[0])
    assert torch.equal(logprob[:10], wanted[1])
    assert token[10:].tolist() == [77, 77], "a row that does not exist"
    assert bool(logprob[10:].isnan().all())


def test_finished_rows_give_pad_and_zero(backend):
    z = torch.randn(4, 30)
    z[1] = NAN
    finished = torch.tensor([False, True, True, False])
    token, logprob = guided_sample(z, finished=finished, pad_id=29, **keys(4))
    plain = guided_sample(z, **keys(4))
    assert token[1:3].tolist() == [29, 29]
    assert logprob[1:3].tolist() == [0.0, 0.0]
    assert torch.equal(token[[0, 3]], plain[0][[0, 3]])


FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([1e-3, 0.5, 1.0, 3.0]),
        "top_k": st.integers(0, 40),
        "top_p": st.floats(0.01, 1.0),
        "min_p": st.floats(0.0, 1.0),
    }
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), vocab=st.integers(1, 60), levels=st.integers(1, 9), f=FILTERS)
def test_any_row_follows_the_integer_rule(seed, vocab, levels, f):
    z = torch.randint(levels, (1, vocab), generator=torch.Generator().manual_seed(seed)).float()
    with dispatch.use("reference"):
        key = keys(1, seed=seed)
        token, _ = guided_sample(z, **key, **f)
        law = filtered_law(z[0].numpy(), **f)
        draw = draw_of(*(int(key[name]) for name in ("seed", "position", "candidate")))
        assert int(token) == law.token(draw)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), vocab=st.integers(1, 80), shift=st.integers(-64, 64), f=FILTERS)
def test_shifting_all_logits_or_masking_more_columns_changes_nothing(seed, vocab, shift, f):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(-600, 600, (1, vocab), generator=generator) / 64  # a shift is exact
    key = keys(1, seed=seed)
    wanted = guided_sample(z, **key, **f)
    assert float(wanted[1]) <= 0
    assert all(map(torch.equal, guided_sample(z + shift, **key, **f), wanted))
    more = torch.cat([z, torch.full((1, 13), -INF)], dim=1)
    if f["top_k"] < vocab:
        assert all(map(torch.equal, guided_sample(more, **key, **f), wanted))
