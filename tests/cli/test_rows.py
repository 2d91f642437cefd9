"""Prompt files: what is read, and one sentence with the place for what cannot be."""

import io
import json

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.rows import Format, read_rows


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_jsonl_rows_keep_every_field_and_their_line_number(tmp_path):
    source = write(
        tmp_path / "a.jsonl", '{"id": 7, "prompt": "A"}\n\n{"prompt": "B", "tag": [1]}\n'
    )
    rows = read_rows(source, "prompt")
    assert [row.prompt for row in rows] == ["A", "B"]
    assert [row.fields for row in rows] == [
        {"id": 7, "prompt": "A"},
        {"prompt": "B", "tag": [1]},
    ]
    assert rows[1].place == f"{source}, line 3"


def test_plain_text_is_one_prompt_a_line(tmp_path):
    rows = read_rows(write(tmp_path / "a.txt", "One\r\n\nTwo two\n"), "prompt")
    assert [row.prompt for row in rows] == ["One", "Two two"]
    assert rows[0].fields == {"prompt": "One"}


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path):
    text = json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False)
    assert read_rows(write(tmp_path / "a.jsonl", text), "prompt")[0].prompt == "a\u2028b"


@pytest.mark.parametrize(
    ("text", "prompt"), [('{"prompt": "x"}\n', "x"), ("plain {words}\n", "plain {words}")]
)
def test_the_format_of_a_file_without_suffix_is_seen_from_its_first_line(tmp_path, text, prompt):
    assert read_rows(write(tmp_path / "prompts", text), "prompt")[0].prompt == prompt


def test_a_format_that_is_named_is_not_guessed(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"prompt": "x"}\n')
    assert read_rows(source, "prompt", Format.text)[0].prompt == '{"prompt": "x"}'


def test_another_field_can_hold_the_prompt(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"question": "x"}\n')
    assert read_rows(source, "question")[0].prompt == "x"


def test_standard_input_is_read(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b'{"prompt": "x"}\n'))
    monkeypatch.setattr("sys.stdin", stream)
    row = read_rows("-", "prompt")[0]
    assert (row.prompt, row.place) == ("x", "standard input, line 1")


BAD = {
    "empty": (b"", "a.jsonl: is empty"),
    "only blank lines": (b"\n  \n", "a.jsonl: is empty"),
    "malformed JSON": (b'{"prompt": "x"}\n{"prompt": \n', "a.jsonl, line 2: is not valid JSON"),
    "not an object": (b'["x"]\n', "a.jsonl, line 1: must be a JSON object"),
    "no such field": (b'{"text": "x"}\n', 'a.jsonl, line 1: has no field "prompt"'),
    "number": (
        b'{"prompt": 3}\n',
        'line 1: field "prompt" must be a string or a list of chat messages, it is a number',
    ),
    "null": (b'{"prompt": null}\n', "chat messages, it is null"),
    "true": (b'{"prompt": true}\n', "chat messages, it is true or false"),
    "half a surrogate pair": (
        b'{"prompt": "a\\ud800"}\n',
        'field "prompt" has half of a surrogate',
    ),
    "no messages": (b'{"prompt": []}\n', "is an empty list"),
    "no message": (b'{"prompt": ["x"]}\n', 'field "prompt", message 1 must be an object'),
    "no content": (b'{"prompt": [{"role": "user"}]}\n', 'message 1 has no "content"'),
    "content": (
        b'{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": 1}]}\n',
        'line 1: field "prompt", message 2: "content" must be a string, it is a number',
    ),
    "role": (b'{"prompt": [{"role": "", "content": "a"}]}\n', '"role" is an empty string'),
    "a JSON list": (b'[{"prompt": "a"},\n', "--format alpaca-eval reads a list"),
    "empty prompt": (b'\n{"prompt": ""}\n', 'line 2: field "prompt" is an empty string'),
    "not UTF-8": (b'{"prompt": "x"}\n{"prompt": "\xff"}', "line 2: is not UTF-8 text"),
}


@pytest.mark.parametrize(("data", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_rows_are_refused_with_file_line_and_field(tmp_path, data, sentence):
    with pytest.raises(BadInput) as error:
        read_rows(write(tmp_path / "a.jsonl", data), "prompt")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl: there is no such file"):
        read_rows(str(tmp_path / "none.jsonl"), "prompt")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_rows(str(tmp_path), "prompt")
