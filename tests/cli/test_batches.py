"""How the prompts are cut into batches."""

import pytest

from w2s.cli.batches import check_batch, prompts_at_once, spans
from w2s.cli.errors import BadInput
from w2s.plan import SearchPlan


@pytest.mark.parametrize("total", [0, 1, 7, 12])
@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_a_resumed_run_has_the_batches_of_an_uninterrupted_one(total, at_once):
    whole = list(spans(0, total, at_once))
    assert [place for first, end in whole for place in range(first, end)] == list(range(total))
    for done in range(total + 1):
        left = list(spans(done, total, at_once))
        assert left == [(first, end) for first, end in whole if end > done]


def test_a_batch_has_256_rows_unless_its_prompts_are_counted():
    assert prompts_at_once("auto", SearchPlan.cbs(4, 4)) == 16
    assert prompts_at_once("auto", SearchPlan.bon(1000)) == 1
    assert prompts_at_once("3", SearchPlan.cbs(4, 4)) == 3


@pytest.mark.parametrize("batch", ["0", "-1", "1.5", "many", ""])
def test_a_size_of_batch_out_of_range_is_refused_by_its_option(batch):
    with pytest.raises(BadInput, match=f"--batch is {batch}; it must be auto or a whole"):
        check_batch(batch)
