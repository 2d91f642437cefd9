"""`--format alpaca-eval`: a list of instructions in, the list that alpaca_eval reads out."""

import json

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.models import Models
from w2s.cli.rows import Format, read_rows

ROWS = [
    {"dataset": "helpful_base", "instruction": "Name a film.", "output": "Jaws", "generator": "x"},
    {"dataset": "koala", "instruction": "Sing.", "output": "La", "generator": "x"},
    {"instruction": "Why?"},
]


@pytest.fixture
def alpaca(search, tmp_path):
    def run(lines, *options, name="in.json"):
        return search(lines, "--method", "sample", "--format", "alpaca-eval", *options, name=name)

    return run


def checked(rows):
    """Checks the fields and returns the outputs."""
    assert [{k: v for k, v in row.items() if k not in ("output", "generator")} for row in rows] == [
        {k: v for k, v in row.items() if k not in ("output", "generator")} for row in ROWS
    ]
    assert {row["generator"] for row in rows} == {"large+sample"}
    return [row["output"] for row in rows]


def test_a_list_of_instructions_becomes_a_list_of_outputs(alpaca, tmp_path):
    done = alpaca([json.dumps(ROWS)], "-o", tmp_path / "out.json")
    assert done.code == 0, done.err
    outputs = checked(json.loads((tmp_path / "out.json").read_text(encoding="utf-8")))
    assert "Jaws" not in outputs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.json"]


def test_json_lines_go_in_and_a_list_comes_out_of_standard_output(alpaca):
    once = checked(json.loads(alpaca([json.dumps(ROWS)]).out))
    assert checked(json.loads(alpaca(ROWS, "--batch", 1, name="in.jsonl").out)) == once


def test_an_interrupted_run_goes_on(alpaca, tmp_path, monkeypatch):
    plain, out = Models.search, tmp_path / "out.json"
    assert alpaca(ROWS, "--batch", 1, "-o", tmp_path / "whole.json").code == 0

    def ends_at_the_third(self, prompts, plan, on_chunk=None, first=0):
        if first == 2:
            raise KeyboardInterrupt
        return plain(self, prompts, plan, on_chunk, first)

    with monkeypatch.context() as patch:
        patch.setattr(Models, "search", ends_at_the_third)
        assert alpaca(ROWS, "--batch", 1, "-o", out).code == 130
    assert not out.exists()
    assert (tmp_path / "out.json.partial").read_bytes().count(b"\n") == 2
    assert alpaca(ROWS, "--batch", 1, "-o", out, "--resume").code == 0
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert "is complete already" in alpaca(ROWS, "-o", out, "--resume").err


BAD = {
    "empty list": ("[]", "in.json: is an empty list"),
    "no instruction": ('[{"prompt": "x"}]', 'entry 1: has no field "instruction"'),
    "no object": ('[{"instruction": "x"}, 3]', "entry 2: must be a JSON object"),
    "malformed": ('[{"instruction": "x"},\n{"instruction"]', "in.json, line 2: is not valid JSON"),
}


@pytest.mark.parametrize(("text", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_bad_list_is_refused_by_its_place(tmp_path, text, sentence):
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(BadInput) as error:
        read_rows(str(tmp_path / "in.json"), None, Format.alpaca_eval)
    assert sentence in str(error.value)
