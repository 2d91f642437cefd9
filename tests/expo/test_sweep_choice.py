"""Which α is recommended and which are tried next, on made-up curves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.expo.sweep.choice import LARGEST, SMALLEST, Point, recommend, refinement
from w2s.reproduce.bootstrap import Estimate


def point(alpha, mean, half=0.1, guard=1.0):
    return Point(alpha, Estimate(mean, mean - half, mean + half), guard)


ZERO = point(0.0, 0.0, 0.0)
numbers = st.floats(-2, 2)
points = st.lists(
    st.one_of(
        st.builds(
            point, st.floats(0.01, 30), numbers, st.floats(0.001, 1), st.floats(0.5, 3)
        ),
        st.builds(Point, st.floats(0.01, 30), st.none(), st.none()),
    ),
    max_size=6, unique_by=lambda one: one.alpha,
).map(lambda found: [ZERO, *found])  # fmt: skip


@given(points, st.one_of(st.none(), st.floats(1, 2)))
def test_what_is_recommended_is_surely_better_and_within_the_guard(found, limit):
    choice = recommend(found, limit)
    chosen = next(one for one in found if one.alpha == choice.alpha)
    if choice.alpha == 0:
        assert not any(one.is_allowed(limit) and one.bound > 0 for one in found)
    else:
        assert chosen.gain.low > 0
        assert limit is None or chosen.guard <= limit
        others = [one.gain.low for one in found if one.alpha != 0 and one.is_allowed(limit)]
        assert chosen.gain.low == max(others)


@given(points, st.permutations(range(7)), st.one_of(st.none(), st.floats(1, 2)))
def test_the_order_of_the_points_decides_nothing(found, order, limit):
    shuffled = [found[place] for place in order if place < len(found)]
    assert recommend(shuffled, limit) == recommend(found, limit)
    assert refinement(shuffled, limit) == refinement(found, limit)


def test_a_high_mean_with_a_wide_interval_loses_to_a_surer_gain():
    found = [ZERO, point(0.3, 0.4, half=0.1), point(3.0, 1.0, half=0.9)]
    assert recommend(found, None).alpha == 0.3


def test_the_guard_rules_out_the_best_reward_and_the_sentence_says_so():
    found = [ZERO, point(0.3, 0.5, guard=1.05), point(3.0, 2.0, guard=1.5)]
    choice = recommend(found, 1.1)
    assert choice.alpha == 0.3
    assert "beyond 1.1 times that of α = 0 at α = 3" in choice.why
    assert recommend(found, None).alpha == 3.0


def test_nothing_better_than_the_aligned_model_is_said_in_words():
    choice = recommend([ZERO, point(0.3, 0.05), point(1.0, -0.5)], None)
    assert choice.alpha == 0
    assert choice.why.startswith("nothing beats α = 0: the best bound is α = 0.3's")


def test_only_broken_models_leave_nothing_to_choose():
    choice = recommend([ZERO, Point(30.0, None)], None)
    assert choice.alpha == 0
    assert choice.why == "no α is left to choose from: the model broke down at α = 30"


def test_an_alpha_below_zero_may_win():
    assert recommend([ZERO, point(-0.5, 0.5), point(0.5, -0.5)], None).alpha == -0.5


@given(points, st.one_of(st.none(), st.floats(1, 2)))
def test_new_alphas_are_new_typeable_and_within_the_limits(found, limit):
    fresh = refinement(found, limit)
    tried = {one.alpha for one in found}
    assert fresh == sorted(set(fresh))
    for alpha in fresh:
        assert alpha not in tried
        assert min([SMALLEST, *(one for one in tried if one > 0)]) <= alpha <= LARGEST
        assert float(f"{alpha:.3g}") == alpha


def test_the_grid_is_refined_at_geometric_means_beside_the_best():
    found = [ZERO, point(0.1, 0.2), point(0.4, 0.9), point(1.6, 0.3), point(6.4, 0.1)]
    assert refinement(found, None) == [0.2, 0.8]


def test_a_best_alpha_at_the_end_of_the_grid_extends_it():
    found = [ZERO, point(0.1, 0.2), point(0.4, 0.9)]
    assert refinement(found, None) == [0.2, 1.6]
    assert refinement([ZERO, point(0.1, 0.9), point(0.4, 0.2)], None) == [0.025, 0.2]


def test_a_single_alpha_is_extended_both_ways():
    assert refinement([ZERO, point(0.3, 0.2)], None) == [0.1, 0.9]


def test_the_grid_is_not_extended_beyond_its_limits():
    assert refinement([ZERO, point(10.0, 0.1), point(30.0, 0.9)], None) == [17.3]
    assert refinement([ZERO, point(9.0, 0.1), point(20.0, 0.9)], None) == [13.4, 30.0]
    assert refinement([ZERO, point(0.01, 0.9), point(0.04, 0.1)], None) == [0.02]


def test_where_the_guard_allows_no_alpha_smaller_ones_are_tried():
    found = [ZERO, point(0.3, 0.9, guard=2.0), point(0.9, 0.9, guard=3.0)]
    assert refinement(found, 1.1) == [0.1]


def test_refining_goes_on_to_the_edge_that_the_guard_draws():
    """Reward and guard both rise with α: the rounds close in on the limit from below."""
    tried = [0.1, 1.0, 10.0]
    for _ in range(8):
        found = [ZERO, *(point(a, math.log1p(a), half=0.01, guard=1 + a / 20) for a in tried)]
        tried += refinement(found, 1.1)
    assert recommend(
        [ZERO, *(point(a, math.log1p(a), half=0.01, guard=1 + a / 20) for a in tried)], 1.1
    ).alpha == pytest.approx(2.0, rel=0.02)


def test_a_best_alpha_below_zero_is_refined_on_its_own_side():
    found = [ZERO, point(-1.0, 0.3), point(-0.25, 0.9), point(0.5, 0.1)]
    assert refinement(found, None) == [-0.5, -0.0625]
