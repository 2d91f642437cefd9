"""Output files: whole or not there, and nothing that was finished is lost."""

import contextlib
import json
import subprocess
import sys

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


def test_a_list_is_one_json_value(tmp_path, capsys):
    for rows in ([], [{"a": 1}], [{"a": "é"}, {"a": "\u2028"}]):
        with ResultsFile(str(tmp_path / "out.json"), as_list=True) as results:
            results.write(rows[:1])
            results.write(rows[1:])
            results.complete()
        with ResultsFile("-", as_list=True) as results:
            results.write(rows)
            results.complete()
        text = (tmp_path / "out.json").read_text(encoding="utf-8")
        assert json.loads(text) == rows
        assert capsys.readouterr().out == text


def test_half_of_a_surrogate_pair_goes_out_as_it_came_in(tmp_path):
    row = json.loads('{"prompt": "A", "note": "\\ud800"}')
    with ResultsFile(str(tmp_path / "out.jsonl")) as results:
        results.write([row])
        results.complete()
    assert rows_of(tmp_path / "out.jsonl") == [row]


def test_a_file_torn_at_any_byte_gives_back_its_whole_rows(tmp_path):
    inputs = [{"n": 0}, {"n": 1}, {"n": 2}]
    target = str(tmp_path / "out.jsonl")
    partial = tmp_path / "out.jsonl.partial"
    lines = [json.dumps({**row, "response": "é\n"}).encode() + b"\n" for row in inputs]
    whole = b"".join(lines)
    for cut in range(0, len(whole) + 1, 2):
        with contextlib.suppress(KeyboardInterrupt), ResultsFile(target) as results:
            results.begin({"seed": 0})
            results.write([{"n": -1}])
            raise KeyboardInterrupt
        partial.write_bytes(whole[:cut])
        with ResultsFile(target, resume=True) as results:
            results.take_up({"seed": 0}, inputs, {"response"})
            assert results.rows == whole[:cut].count(b"\n")
            results.begin({"seed": 0})
            results.write([{**row, "response": "é\n"} for row in inputs[results.rows :]])
            results.complete()
        assert rows_of(tmp_path / "out.jsonl") == [{**row, "response": "é\n"} for row in inputs]
        (tmp_path / "out.jsonl").unlink()
        assert list(tmp_path.iterdir()) == []


def test_a_kill_around_the_last_rename_loses_nothing(tmp_path):
    inputs = [{"n": 0}, {"n": 1}]
    saved = {}
    for as_list in (False, True):
        target = tmp_path / f"{as_list}.out"
        partial = tmp_path / f"{as_list}.out.partial"
        record = tmp_path / f"{as_list}.out.partial.json"
        with ResultsFile(str(target), as_list=as_list) as results:
            results.begin({"seed": 0})
            results.write(inputs)
            saved = {path: path.read_bytes() for path in (partial, record)}
            results.complete()
        whole = target.read_bytes()
        for there in ([record], [partial, record] if as_list else []):
            for path in there:
                path.write_bytes(saved[path])
            with ResultsFile(str(target), resume=True, as_list=as_list) as results:
                results.take_up({"seed": 0}, inputs, set())
                assert results.rows == 2
                results.begin({"seed": 0})
                results.complete()
            assert target.read_bytes() == whole
            assert list(tmp_path.iterdir()) == [target]
        record.write_bytes(saved[record])
        with (
            pytest.raises(BadInput, match="seed was 0 and is 1 now"),
            ResultsFile(str(target), resume=True, as_list=as_list) as results,
        ):
            results.take_up({"seed": 1}, inputs, set())
        record.unlink()
        target.unlink()


def test_a_resumed_run_has_the_batches_of_the_earlier_one(tmp_path):
    target = str(tmp_path / "out.jsonl")
    with contextlib.suppress(KeyboardInterrupt), ResultsFile(target) as results:
        assert results.begin({}, at_once=16) == 16
        results.write([{"n": 0}])
        raise KeyboardInterrupt
    with ResultsFile(target, resume=True) as results:
        results.take_up({}, [{"n": 0}, {"n": 1}], set())
        assert results.begin({}, at_once=8) == 16


def test_what_is_refused_is_not_touched(tmp_path):
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(b'{"n": 0}\n{"n')
    for before in (None, b"{", b'{"w2s search": 1, "settings": {"seed": 1}, "prompts at once": 1}'):
        if before is not None:
            (tmp_path / "out.jsonl.partial.json").write_bytes(before)
        with (
            pytest.raises(BadInput, match="--resume: "),
            ResultsFile(str(tmp_path / "out.jsonl"), resume=True) as results,
        ):
            results.take_up({"seed": 0}, [{"n": 0}], set())
        assert partial.read_bytes() == b'{"n": 0}\n{"n'


def test_a_reader_that_leaves_ends_the_run_with_one_sentence():
    program = (
        "from w2s.cli import app, main, search\n"
        "from w2s.cli.results_file import ResultsFile\n"
        "def many():\n"
        "    with ResultsFile('-') as results:\n"
        "        while True: results.write([{'n': 'x' * 1000}])\n"
        "app.command('many')(many)\n"
        "raise SystemExit(main(['many']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout.readline().startswith('{"n"')
        run.stdout.close()
        said = run.stderr.read()
    assert run.returncode == 1
    assert said.startswith("w2s: standard output: cannot be written (Broken pipe); ")
    assert said.count("\n") == 1
