"""Options become a plan, or one sentence that names the option."""

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.plans import Method, build_plan


def test_each_method_is_a_setting_of_the_one_search():
    cbs = build_plan(Method.cbs, {"width": None, "samples": 3})
    assert (cbs.width, cbs.samples, cbs.chunk, cbs.temperature) == (4, 3, 5, 0.7)
    bon = build_plan(Method.bon, {"samples": 32})
    assert (bon.width, bon.samples, bon.chunk) == (1, 32, None)
    sample = build_plan(Method.sample, {"temperature": 1.0})
    assert (sample.width, sample.samples, sample.chunk, sample.temperature) == (1, 1, None, 1.0)
    assert build_plan(Method.greedy, {}).temperature == 0


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
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_option(method, given, others, sentence):
    with pytest.raises(BadInput) as error:
        build_plan(method, given, **others)
    assert sentence in str(error.value)
