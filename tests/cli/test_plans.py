"""Options become a plan, or one sentence that names the option."""

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.plans import Method, Roles, build_plan, pair_roles


def test_each_method_is_a_setting_of_the_one_search():
    cbs = build_plan(Method.cbs, {"width": None, "samples": 3})
    assert (cbs.width, cbs.samples, cbs.chunk, cbs.temperature) == (4, 3, 5, 0.7)
    bon = build_plan(Method.bon, {"samples": 32})
    assert (bon.width, bon.samples, bon.chunk) == (1, 32, None)
    sample = build_plan(Method.sample, {"temperature": 1.0})
    assert (sample.width, sample.samples, sample.chunk, sample.temperature) == (1, 1, None, 1.0)
    eft = build_plan(Method.eft, {"samples": 4})
    assert (eft.width, eft.samples, eft.chunk, eft.temperature) == (1, 4, None, 0.7)
    beam = build_plan(Method.beam, {"width": 3})
    assert (beam.width, beam.pool, beam.chunk, beam.temperature) == (3, 9, 1, 1.0)
    assert beam.beams
    greedy = build_plan(Method.greedy, {})
    assert (greedy.pool, greedy.beams) == (1, True)


def test_the_pair_is_asked_for_what_the_method_needs():
    one, many = build_plan(Method.eft, {}), build_plan(Method.eft, {"samples": 2})
    assert pair_roles(Method.cbs, many, None, False) == Roles(ranks=True)
    assert pair_roles(Method.bon, many, None, False) == Roles(ranks=True)
    assert pair_roles(Method.eft, one, None, False) == Roles(ranks=False, beta=1.0)
    assert pair_roles(Method.eft, many, 0.5, True) == Roles(ranks=True, beta=0.5)
    for method in (Method.sample, Method.greedy, Method.beam):
        assert not pair_roles(method, one, None, False).needs_pair
    for method in (Method.sample, Method.greedy):
        assert pair_roles(method, one, None, True) == Roles(ranks=True)


@pytest.mark.parametrize(
    ("method", "beta", "pair", "sentence"),
    [
        (Method.cbs, 1.0, False, "--beta has no meaning with --method cbs"),
        (Method.eft, float("nan"), False, "--beta is nan; it must be a finite number"),
        (Method.beam, None, True, "--pair has no meaning with --method beam"),
    ],
)
def test_a_pair_or_a_beta_without_use_is_refused(method, beta, pair, sentence):
    with pytest.raises(BadInput, match=sentence):
        pair_roles(method, build_plan(Method.sample, {}), beta, pair)


@pytest.mark.parametrize(
    ("method", "given", "others", "sentence"),
    [
        (Method.cbs, {"width": 0}, {}, "--width is 0; it must be a whole number >= 1"),
        (Method.cbs, {"samples": 0}, {}, "--samples is 0; it must be"),
        (Method.cbs, {"chunk": 0}, {}, "--chunk is 0; it must be a whole number >= 1"),
        (Method.cbs, {"temperature": -0.5}, {}, "--temperature is -0.5; it must be"),
        (Method.cbs, {}, {"top_p": 0.0}, "--top-p is 0.0; it must be in (0, 1]"),
        (Method.cbs, {}, {"top_p": 1.5}, "--top-p is 1.5; it must be in (0, 1]"),
        (Method.cbs, {}, {"max_new_tokens": 0}, "--max-new-tokens is 0; it must be"),
        (Method.bon, {"width": 2}, {}, "--width has no meaning with --method bon"),
        (Method.greedy, {"temperature": 1.0}, {}, "--temperature has no meaning with --method"),
        (Method.beam, {"top_k": 5}, {}, "--top-k has no meaning with --method beam"),
        (Method.beam, {"chunk": 5}, {}, "--chunk has no meaning with --method beam"),
        (Method.eft, {"chunk": 0}, {}, "--chunk is 0; it must be a whole number >= 1"),
        (Method.cbs, {}, {"stop": ("x", "")}, "--stop is an empty string"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_option(method, given, others, sentence):
    with pytest.raises(BadInput) as error:
        build_plan(method, given, **others)
    assert sentence in str(error.value)
