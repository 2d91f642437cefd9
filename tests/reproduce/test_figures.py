"""From records to figures, on records short enough to judge by hand."""

import numpy as np
import pytest

from w2s.reproduce.bootstrap import mean_interval
from w2s.reproduce.figures import difference, distinct_2, measured, order, report

VALUE = {"a": 0.1, "b": 0.2, "c": 0.4, "d": 0.8}
JUDGES = {"judge": VALUE.__getitem__, "vader": lambda text: -VALUE[text]}


def row(opening, texts, scores, written=40):
    tokens = [10 * (place + 1) for place in range(len(texts))]
    return {
        "opening": opening, "texts": list(texts), "tokens": tokens, "scores": scores,
        "written": written,
    }  # fmt: skip


@pytest.fixture
def records(small):
    """Two openings, seeds 0 and 1; only the pool's texts differ between the seeds."""
    rows = {
        ("pool", 0): [row(0, "abc", [1.0, 2.0, 3.0]), row(1, "bbd", [3.0, 2.0, 3.0])],
        ("pool", 1): [row(0, "cba", [1.0, 2.0, 3.0]), row(1, "ddd", [0.0, 0.0, 0.0])],
        ("EFT β=1", 0): [row(0, "ab", None), row(1, "cc", None)],
        ("CBS 4,4,5", 0): [row(0, "d", [9.0]), row(1, "d", [9.0])],
        ("CBS 2,2,5", 1): [row(0, "c", [4.0])],
    }
    found = {}
    for batch in small.batches():
        name = batch.run.name
        these = rows.get((name, batch.seed)) or rows[name, 0]
        found[batch.key] = {"seconds": 6.0, "rows": these[batch.first : batch.end]}
    return found


@pytest.fixture
def figures(small, records):
    return {one.method.name: one for one in measured(small, records, JUDGES)}


def test_the_base_is_the_mean_of_the_pool(figures):
    expected = [[0.7 / 3, 0.7 / 3], [1.2 / 3, 0.8]]
    assert figures["base"].values["judge"].tolist() == [pytest.approx(one) for one in expected]


def test_best_of_n_is_the_best_of_the_first_n_draws(figures):
    assert figures["BoN-2"].values["judge"].tolist() == [[0.2, 0.2], [0.2, 0.8]]


def test_equal_scores_go_to_the_earlier_draw(figures):
    assert figures["BoN-16"].values["judge"].tolist() == [[0.4, 0.1], [0.2, 0.8]]


def test_costs_count_what_a_method_pays_for(figures):
    base, two, search = (figures[name] for name in ("base", "BoN-2", "CBS 4,4,5"))
    assert (base.large_tokens, base.pair_tokens) == (20, 0)  # one text of 10, 20 or 30 tokens
    assert (two.large_tokens, two.pair_tokens) == (30, 60)
    assert (search.large_tokens, search.pair_tokens) == (40, 80)
    assert search.seconds == pytest.approx(2 * 6.0 / 4)  # one batch a seed, four results
    assert base.seconds == pytest.approx(search.seconds / 3)
    assert base.seconds_shared
    assert not search.seconds_shared


def test_differences_are_paired_on_common_openings_and_seeds(figures):
    found = difference(figures["CBS 2,2,5"], figures["base"], "judge")
    assert found.mean == pytest.approx(0.4 - 0.7 / 3)  # opening 0, seed 1 alone
    whole = difference(figures["CBS 4,4,5"], figures["base"], "judge")
    assert whole.mean == pytest.approx(0.8 - (0.7 / 3 + (0.4 + 0.8) / 2) / 2)


def test_the_report_has_every_method_and_comparison(figures):
    found = report(list(figures.values()), resamples=50)
    assert [one["name"] for one in found["methods"]] == list(figures)
    assert found["methods"][0]["gain"]["judge"] == {"mean": 0, "low": 0, "high": 0}
    assert "score" not in found["methods"][1]["measures"]
    assert len(found["differences"]["vader"]) == 5
    signs = {one["above"]: one["mean"] > 0 for one in found["differences"]["judge"]}
    against = {one["above"]: one["mean"] > 0 for one in found["differences"]["vader"]}
    assert signs["CBS 4,4,5"]
    assert not against["CBS 4,4,5"]


def comparisons(cbs_bon, bon_base, eft_base, bon_eft=(-1, 1)):
    pairs = {
        ("CBS 4,4,5", "BoN-16"): cbs_bon, ("BoN-16", "base"): bon_base,
        ("CBS 4,4,5", "base"): (1, 2), ("EFT β=1", "base"): eft_base,
        ("BoN-16", "EFT β=1"): bon_eft,
    }  # fmt: skip
    return [
        {"above": above, "below": below, "mean": sum(ends) / 2, "low": ends[0], "high": ends[1]}
        for (above, below), ends in pairs.items()
    ]


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (((1, 2), (1, 2), (1, 2)), "holds"),
        (((-1, 2), (1, 2), (1, 2)), "is not settled"),
        (((-1, 2), (1, 2), (-2, -1)), "does not hold"),
        (((0, 2), (1, 2), (1, 2)), "is not settled"),
    ],
)
def test_the_order_is_read_from_the_intervals(ends, verdict):
    assert order(comparisons(*ends), 200)["verdict"] == verdict


@pytest.mark.parametrize(
    ("ends", "told"), [((-1, 1), "not told apart"), ((1, 2), "BoN above"), ((-2, -1), "EFT above")]
)
def test_bon_and_eft_are_told_apart_only_by_an_interval_off_zero(ends, told):
    assert order(comparisons((1, 2), (1, 2), (1, 2), ends), 200)["bon_eft"] == told


def test_few_openings_say_nothing_of_the_order():
    assert order(comparisons((1, 2), (1, 2), (1, 2)), 5)["verdict"] == "too few openings"


def test_an_interval_covers_the_mean_as_often_as_it_says():
    draw = np.random.default_rng(7)
    samples = draw.normal(size=(300, 60))
    hits = sum(
        one.low <= 0 <= one.high for one in (mean_interval(values, 400) for values in samples)
    )
    assert 0.90 <= hits / 300 <= 0.98


def test_an_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert found.mean == values.mean()
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values) == mean_interval(values.copy())


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no openings"):
        mean_interval(np.array([]))


@pytest.mark.parametrize(
    ("text", "share"), [("", 1.0), ("one", 1.0), ("a b a b a", 0.5), ("a b c", 1.0)]
)
def test_distinct_2_counts_different_word_pairs(text, share):
    assert distinct_2(text) == share
