"""How the prompts are cut into batches."""

import json

import pytest

from w2s.batching import rows_worth
from w2s.cli.batches import check_batch, spans
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
    assert rows_worth(SearchPlan.cbs(4, 4)) == 16
    assert rows_worth(SearchPlan.bon(1000)) == 1


@pytest.fixture
def free(monkeypatch):
    """Makes so many bytes of memory free."""
    return lambda count: monkeypatch.setattr("w2s.batching.available_memory", lambda _: count)


ROWS = [{"prompt": "The film"}, {"prompt": "A"}, {"prompt": "So"}, {"prompt": "Well"}]


def test_a_batch_is_cut_to_the_free_memory_and_says_so(search, free):
    whole = search(ROWS)
    free(1_500_000)
    done = search(ROWS)
    assert done.code == 0, done.err
    note = done.err.splitlines()[0]
    assert note.startswith("w2s: searching ")
    assert "prompts at once and not 4, which would need" in note
    assert "1.4 MiB are free on cpu" in note
    assert "lower --samples, --width, --max-new-tokens or --dtype" in note
    texts = [[json.loads(line)["response"] for line in d.out.splitlines()] for d in (done, whole)]
    assert texts[0] == texts[1]
    assert "searching" not in whole.err


def test_a_prompt_that_does_not_fit_alone_is_refused_with_what_to_lower(search, free, tmp_path):
    free(100_000)
    done = search(ROWS, "-o", tmp_path / "out.jsonl")
    assert (done.code, done.out) == (2, "")
    assert "one prompt (16 rows of up to 8 tokens and 6 new ones) needs " in done.err
    assert "97.7 KiB are free on cpu; lower --samples, --width, --max-new-tokens" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_number_of_prompts_that_does_not_fit_is_refused(search, free):
    free(1_500_000)
    done = search(ROWS, "--batch", 4)
    assert (done.code, done.out) == (2, "")
    assert "--batch 4 needs " in done.err
    assert "lower --batch (" in done.err
    fitting = int(done.err.split("lower --batch (")[1].split()[0])
    assert search(ROWS, "--batch", fitting).code == 0


@pytest.mark.parametrize("batch", ["0", "-1", "1.5", "many", ""])
def test_a_size_of_batch_out_of_range_is_refused_by_its_option(batch):
    with pytest.raises(BadInput, match=f"--batch is {batch}; it must be auto or a whole"):
        check_batch(batch)
