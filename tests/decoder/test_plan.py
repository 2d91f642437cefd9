"""`SearchPlan` refuses what it cannot do, by name."""

import dataclasses

import pytest

import w2s

BAD = [
    ("width", 0),
    ("width", 2.0),
    ("width", True),
    ("samples", 0),
    ("samples", -3),
    ("chunk", 0),
    ("chunk", 1.5),
    ("max_new_tokens", 0),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", -1),
    ("top_k", 2.5),
    ("top_p", 0.0),
    ("top_p", 1.01),
    ("top_p", float("nan")),
    ("min_p", -0.01),
    ("min_p", 1.5),
    ("seed", 2**63),
    ("seed", "0"),
    ("stop", ("a", "")),
    ("stop", ""),
    ("stop", (1,)),
    ("clones", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(w2s.PlanError) as caught:
        w2s.SearchPlan(**{field: value})
    assert caught.value.field == field
    assert field in str(caught.value)
    assert caught.value.allowed in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        w2s.SearchPlan().width = 3


@pytest.mark.parametrize(
    ("plan", "pool", "chunk_length", "temperature"),
    [
        (w2s.SearchPlan(), 16, 5, 0.7),
        (w2s.SearchPlan.cbs(2, 3, 4), 6, 4, 0.7),
        (w2s.SearchPlan.bon(8, max_new_tokens=20), 8, 20, 0.7),
        (w2s.SearchPlan.sample(temperature=1.0), 1, 50, 1.0),
        (w2s.SearchPlan.greedy(), 1, 50, 0.0),
        (w2s.SearchPlan(chunk=99), 16, 50, 0.7),
    ],
)
def test_the_methods_are_settings_of_one_plan(plan, pool, chunk_length, temperature):
    assert (plan.pool, plan.chunk_length, plan.temperature) == (pool, chunk_length, temperature)


def test_one_stop_string_may_be_given_bare():
    assert w2s.SearchPlan(stop="\n").stop == ("\n",)
    assert w2s.SearchPlan(stop=["a", "b"]).stop == ("a", "b")
