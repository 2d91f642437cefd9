"""Output files: whole or not there, and nothing that was finished is lost."""

import contextlib
import json

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.results_file import ResultsFile


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_gets_its_name_only_when_complete(tmp_path):
    target = tmp_path / "out.jsonl"
    with ResultsFile(str(target)) as results:
        results.write([{"response": "é"}])
        assert not target.exists()
        assert rows_of(tmp_path / "out.jsonl.partial") == [{"response": "é"}]
        results.complete()
    assert rows_of(target) == [{"response": "é"}]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_interruption_keeps_the_finished_rows_and_the_old_file(tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("old\n")
    with contextlib.suppress(KeyboardInterrupt), ResultsFile(str(target)) as results:
        results.write([{"n": 1}])
        raise KeyboardInterrupt
    assert target.read_text() == "old\n"
    assert rows_of(tmp_path / "out.jsonl.partial") == [{"n": 1}]


def test_rows_of_an_interrupted_run_are_not_overwritten(tmp_path):
    (tmp_path / "out.jsonl.partial").write_text("{}\n")
    with pytest.raises(BadInput, match="holds the rows of an interrupted run"):
        ResultsFile(str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl.partial").read_text() == "{}\n"


def test_a_run_without_rows_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="early"), ResultsFile(str(tmp_path / "out.jsonl")):
        raise ValueError("early")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_kept_and_the_file_it_names_is_replaced(tmp_path):
    (tmp_path / "real.jsonl").write_text("old\n")
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    with ResultsFile(str(link)) as results:
        results.write([{"n": 1}])
        results.complete()
    assert link.is_symlink()
    assert rows_of(tmp_path / "real.jsonl") == [{"n": 1}]


def test_a_device_is_written_and_never_renamed_over():
    with ResultsFile("/dev/null") as results:
        results.write([{"n": 1}])
        results.complete()
        assert results.partial is None


@pytest.mark.parametrize("place", ["no/such/folder/out.jsonl", "file/out.jsonl", "folder"])
def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot be written"):
        ResultsFile(str(tmp_path / place))


def test_standard_output_gets_json_lines(capsys):
    with ResultsFile("-") as results:
        results.write([{"a": 1}, {"a": 2}])
        results.complete()
    assert capsys.readouterr().out == '{"a": 1}\n{"a": 2}\n'
