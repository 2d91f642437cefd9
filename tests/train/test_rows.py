"""Training rows: what is accepted, and that a refusal says where."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from w2s.train import RowError
from w2s.train.rows import IGNORE, encode, epoch_batches, read_rows

SFT_FORMS = (("prompt", "response"), ("text",))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"text": ', "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "a"}', 'field "response" is missing'),
        ('{"prompt": "a", "response": 3}', 'field "response" must be a string, not 3'),
        ('{"prompt": "a", "response": ""}', 'field "response" is empty'),
        ('{"text": null}', 'field "text" must be a string, not null'),
    ],
)
def test_a_bad_row_is_refused_with_file_line_and_field(
    write_rows: Any, row: str, complaint: str
) -> None:
    path = write_rows({"text": "fine"}, row)
    with pytest.raises(RowError) as caught:
        read_rows(path, *SFT_FORMS)
    assert f"{path}, line 2: " in str(caught.value)
    assert complaint in str(caught.value)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path, write_rows: Any) -> None:
    with pytest.raises(RowError, match=r"none\.jsonl: cannot be read"):
        read_rows(tmp_path / "none.jsonl", *SFT_FORMS)
    with pytest.raises(RowError, match="has no rows"):
        read_rows(write_rows("", "  "), *SFT_FORMS)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "caf\xe9"}'.encode("latin-1"))
    with pytest.raises(RowError, match="not UTF-8"):
        read_rows(path, *SFT_FORMS)


def test_blank_lines_are_skipped_and_keep_their_number(write_rows: Any) -> None:
    path = write_rows({"text": "good"}, "", {"text": "bad", "id": 7})
    assert read_rows(path, *SFT_FORMS) == [(1, {"text": "good"}), (3, {"text": "bad"})]


def test_line_separators_inside_a_string_do_not_cut_a_row(write_rows: Any) -> None:
    text = "good\u2028bad\u0085film"
    path = write_rows(json.dumps({"text": text}, ensure_ascii=False))
    assert read_rows(path, *SFT_FORMS) == [(1, {"text": text})]


def test_only_response_and_end_are_targets(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, target = encode(tokenizer, "the film", "was good", end=True)
    assert ids == [6, 5, 7, 2, 0]
    assert target == [IGNORE, 7, 2, 0, IGNORE]
    ids, target = encode(tokenizer, "", "was good", end=False)
    assert (ids, target) == ([7, 2], [2, IGNORE])


def test_batches_pass_over_all_rows_before_any_comes_again() -> None:
    drawn = list(itertools.islice(epoch_batches(5, 2, seed=3), 5))
    flat = [row for batch in drawn for row in batch]
    assert sorted(flat[:5]) == sorted(flat[5:]) == [0, 1, 2, 3, 4]
    assert drawn == list(itertools.islice(epoch_batches(5, 2, seed=3), 5))
    assert drawn != list(itertools.islice(epoch_batches(5, 2, seed=4), 5))
