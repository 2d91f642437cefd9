"""`--resume`: goes on where a run ended, with the same settings or not at all."""

import json
import os
import shutil

import pytest

from w2s.cli.models import Models

ROWS = [{"prompt": text, "id": n} for n, text in enumerate(["The film", "A", "So", "It was", "I"])]
QUICK = ("--method", "sample", "--batch", 2)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "out.jsonl.partial"


@pytest.fixture
def whole(search, tmp_path):
    """The file of an uninterrupted run."""
    assert search(ROWS, *QUICK, "-o", tmp_path / "whole.jsonl").code == 0
    return (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def searched(monkeypatch):
    """The places in the input of every prompt that is searched, in order."""
    places, plain = [], Models.search

    def noted(self, prompts, plan, on_chunk=None, first=0):
        places.extend(range(first, first + len(prompts)))
        return plain(self, prompts, plan, on_chunk, first)

    monkeypatch.setattr(Models, "search", noted)
    return places


@pytest.fixture
def interrupted(search, out):
    """A run that Ctrl-C ended after its first batch of two rows."""

    def run(*options, rows=ROWS):
        plain = Models.search

        def ends_at_the_second(self, prompts, plan, on_chunk=None, first=0):
            if first:
                raise KeyboardInterrupt
            return plain(self, prompts, plan, on_chunk, first)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Models, "search", ends_at_the_second)
            done = search(rows, *QUICK, "-o", out, *options)
        assert done.code == 130, done.err
        return done

    return run


def assert_refused(done, *parts):
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("out"))


def test_a_resumed_run_ends_with_the_file_of_an_uninterrupted_one(
    interrupted, search, searched, out, whole, tmp_path
):
    said = interrupted().err
    assert "2 of 5 rows are finished and kept in" in said
    assert "--resume" in said
    searched.clear()
    done = search(ROWS, *QUICK, "-o", out, "--resume")
    assert done.code == 0, done.err
    assert "going on after the 2 of 5 rows" in done.err
    assert searched == [2, 3, 4]
    assert out.read_bytes() == whole
    assert names(tmp_path) == ["out.jsonl"]


def test_a_line_torn_anywhere_is_cut_off_and_its_batch_searched_as_it_was(
    interrupted, search, searched, out, partial, whole, tmp_path
):
    interrupted()
    shutil.copytree(tmp_path, saved := tmp_path.with_name("saved"))
    lines = partial.read_bytes().splitlines(keepends=True)
    for cut in (1, len(lines[1]) // 2, len(lines[1]) - 1):
        shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
        out.unlink(missing_ok=True)
        partial.write_bytes(lines[0] + lines[1][:cut])
        searched.clear()
        assert search(ROWS, *QUICK, "-o", out, "--resume").code == 0
        assert searched == [0, 1, 2, 3, 4]
        assert out.read_bytes() == whole


def test_without_resume_the_rows_are_kept_and_the_sentence_names_it(
    interrupted, search, out, partial
):
    interrupted()
    before = partial.read_bytes()
    assert_refused(search(ROWS, *QUICK, "-o", out), "holds the rows", "go on with --resume")
    assert partial.read_bytes() == before


CHANGED = {
    "seed": (["--seed", 1], ["--seed was 0 and is 1 now"]),
    "temperature": (["--temperature", 0.9], ["--temperature was 0.7 and is 0.9 now"]),
    "length": (["--max-new-tokens", 7], ["--max-new-tokens was 6 and is 7 now"]),
    "stop": (["--stop", "x"], ['--stop was [] and is ["x"] now']),
    "method": (["--method", "greedy"], ["--method was sample and is greedy now"]),
    "template": (["--large-template", "Re: {prompt}"], ["--large-template was null and is Re: {"]),
    "field": (["--field", "prompt2"], ['no field "prompt2"']),
    "candidates": (["--candidates"], ["--candidates was false and is true now"]),
    "dtype": (["--dtype", "bfloat16"], ["--dtype was auto and is bfloat16 now"]),
    "several": (["--seed", 1, "--candidates"], ["--seed was", "; --candidates was"]),
}


@pytest.mark.parametrize(("options", "parts"), CHANGED.values(), ids=CHANGED.keys())
def test_a_changed_setting_is_refused_with_both_values(
    interrupted, search, out, partial, options, parts
):
    interrupted()
    before = partial.read_bytes()
    assert_refused(search(ROWS, *QUICK, "-o", out, *options, "--resume"), *parts)
    assert partial.read_bytes() == before
    assert search(ROWS, *QUICK, "-o", out, "--resume").code == 0


def test_a_changed_input_is_refused(interrupted, search, out):
    interrupted()
    done = search([*ROWS[:4], {"prompt": "You"}], *QUICK, "-o", out, "--resume")
    assert_refused(done, "the input was 5 rows (sha256 ", "and is 5 rows (sha256 ")
    done = search(ROWS[:4], *QUICK, "-o", out, "--resume")
    assert_refused(done, "the input was 5 rows (", "and is 4 rows (")


def test_a_changed_model_is_refused(interrupted, search, folders, out, tmp_path):
    shutil.copytree(folders.tuned, tuned := tmp_path / "tuned")
    pair = (tuned, folders.untuned)
    interrupted("--pair", *pair)
    weights = tuned / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(1, 1))
    done = search(ROWS, *QUICK, "-o", out, "--resume", pair=pair)
    assert_refused(done, "the files of the tuned model was")


def test_a_dtype_that_auto_no_longer_stands_for_is_refused(
    interrupted, search, searched, out, tmp_path
):
    interrupted()
    record = tmp_path / "out.jsonl.partial.json"
    record.write_text(record.read_text().replace("float32", "bfloat16"))
    searched.clear()
    done = search(ROWS, *QUICK, "-o", out, "--resume")
    assert done.code == 2
    assert "the large model's dtype was bfloat16 and is float32 now" in done.err
    assert searched == []


def test_another_size_of_batch_may_go_on(interrupted, search, out, whole):
    interrupted()
    assert search(ROWS, *QUICK, "-o", out, "--resume", "--batch", 1).code == 0
    resumed = [json.loads(line)["response"] for line in out.read_bytes().splitlines()]
    assert resumed == [json.loads(line)["response"] for line in whole.splitlines()]


def test_a_damaged_line_is_refused_by_its_number(interrupted, search, out, partial):
    interrupted()
    lines = partial.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + lines[1][:9] + b"\n"
    partial.write_bytes(damaged)
    assert_refused(
        search(ROWS, *QUICK, "-o", out, "--resume"), "out.jsonl.partial, line 2: is not valid JSON"
    )
    assert partial.read_bytes() == damaged


def test_a_row_of_another_prompt_is_refused_by_its_number(interrupted, search, out, partial):
    interrupted()
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(lines[1] + lines[0])
    assert_refused(
        search(ROWS, *QUICK, "-o", out, "--resume"),
        "out.jsonl.partial, line 1: is not the result of row 1",
    )


def test_rows_without_their_settings_are_refused(interrupted, search, out, partial, tmp_path):
    interrupted()
    record = tmp_path / "out.jsonl.partial.json"
    text = record.read_text()
    record.write_text(text.replace('"w2s search": 1', '"w2s search": 99'))
    assert_refused(search(ROWS, *QUICK, "-o", out, "--resume"), "another version")
    record.write_text(text[:50])
    assert_refused(search(ROWS, *QUICK, "-o", out, "--resume"), "cannot be read")
    record.unlink()
    assert_refused(search(ROWS, *QUICK, "-o", out, "--resume"), "out.jsonl.partial.json is missing")
    assert partial.exists()


def test_with_nothing_to_resume_it_starts_from_the_beginning_and_says_so(search, out, whole):
    done = search(ROWS, *QUICK, "-o", out, "--resume")
    assert done.code == 0
    assert "nothing to resume: starting from the beginning" in done.err
    assert out.read_bytes() == whole


def test_a_complete_file_is_left_as_it_is(search, searched, out, whole):
    out.write_bytes(whole)
    searched.clear()
    done = search(ROWS, *QUICK, "-o", out, "--resume")
    assert (done.code, searched) == (0, [])
    assert "is complete already: 5 rows" in done.err
    assert_refused(search(ROWS[:4], *QUICK, "-o", out, "--resume"), "row more than the 4 rows")
    assert_refused(search([*ROWS, ROWS[0]], *QUICK, "-o", out, "--resume"), "with 5 rows")
    assert_refused(search(ROWS[::-1], *QUICK, "-o", out, "--resume"), "line 1: is not the result")
    assert out.read_bytes() == whole


def test_standard_output_cannot_be_resumed(search):
    assert_refused(search(ROWS, "--resume"), "--resume needs a file")
    assert_refused(search(ROWS, "--resume", "-o", "/dev/null"), "no regular file")


def test_an_interruption_before_the_first_row_leaves_nothing(search, out, tmp_path, monkeypatch):
    def at_once(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Models, "search", at_once)
    done = search(ROWS, *QUICK, "-o", out)
    assert done.code == 130
    assert "interrupted: 0 of 5 rows are finished" in done.err
    assert names(tmp_path) == []
