"""Bad input: exit code 2, one sentence that says what and where, nothing written."""

import subprocess
import sys

import pytest

GOOD = {"prompt": "The film"}


def assert_refused(done, *parts):
    assert done.code == 2, done.err
    assert done.out == ""
    sentence = done.err.rstrip("\n")
    assert sentence.startswith("w2s: ")
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


PLANS = {
    "width": (["-W", 0], ["--width is 0", ">= 1"]),
    "samples": (["-K", 0], ["--samples is 0", ">= 1"]),
    "chunk": (["-L", 0], ["--chunk is 0", ">= 1"]),
    "temperature": (["--temperature", -1], ["--temperature is -1.0", ">= 0"]),
    "top_p 0": (["--top-p", 0], ["--top-p is 0.0", "(0, 1]"]),
    "top_p 1.2": (["--top-p", 1.2], ["--top-p is 1.2", "(0, 1]"]),
    "top_k": (["--top-k", -1], ["--top-k is -1"]),
    "max_new_tokens": (["--max-new-tokens", 0], ["--max-new-tokens is 0"]),
    "batch": (["--batch", 0], ["--batch is 0"]),
    "useless option": (["--method", "bon", "-W", 2], ["--width has no meaning"]),
    "no number": (["-W", "four"], ["--width"]),
    "no such option": (["--widht", 4], ["--widht"]),
    "no such method": (["--method", "magic"], ["--method"]),
    "template": (["--large-template", "no place"], ["--large-template", "'no place'", "{prompt}"]),
    "pair's template": (["--pair-template", "x"], ["--pair-template", "'x'", "{prompt}"]),
    "stop": (["--stop", "."] * 2 + ["--stop", ""], ["--stop is an empty string"]),
    "beta": (["--beta", 2], ["--beta has no meaning with --method cbs"]),
    "chat": (["--chat"], ['line 1: field "prompt" needs a chat template', "large"]),
    "system": (["--system", "Be kind."], ["needs a chat template"]),
    "device": (["--device", "abacus"], ["abacus"]),
    "dtype": (["--dtype", "float3"], ["float3"]),
}


@pytest.mark.parametrize(("options", "parts"), PLANS.values(), ids=PLANS.keys())
def test_a_setting_out_of_range(search, options, parts):
    assert_refused(search([GOOD], *options), *parts)


def test_prompts_are_checked_before_any_weights_are_read(search, monkeypatch):
    import w2s

    def never(*arguments, **settings):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(w2s, "load", never)
    for options in (["--chat"], ["--system", "x"], ["--pair-template", "x"], ["--stop", ""]):
        assert search([GOOD], *options).code == 2
    assert search([{"prompt": [{"role": "user", "content": "A"}]}]).code == 2


def test_nothing_heavy_is_imported_to_find_bad_input(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": 3}\n')
    program = (
        "import sys; from w2s.cli import main; "
        "code = main(['search', sys.argv[1]]); "
        "sys.exit(0 if code == 2 and not {'torch', 'transformers'} & sys.modules.keys() else 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "in.jsonl")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


ROWS = {
    "empty": ([], ["in.jsonl: is empty"]),
    "malformed": ([GOOD, '{"prompt": '], ["in.jsonl, line 2", "not valid JSON"]),
    "non-string": ([GOOD, GOOD, {"prompt": 3}], ["in.jsonl, line 3", '"prompt"', "a number"]),
    "no field": ([{"text": "x"}], ["in.jsonl, line 1", 'no field "prompt"']),
    "too long": ([GOOD, {"prompt": "x" * 59}], ["in.jsonl, line 2", "59 tokens", "6 new", "64"]),
}


@pytest.mark.parametrize(("lines", "parts"), ROWS.values(), ids=ROWS.keys())
def test_a_row_that_cannot_be_used(search, tmp_path, lines, parts):
    assert_refused(search(lines, "-o", tmp_path / "out.jsonl"), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_prompt_that_just_fits_is_taken(search):
    assert search([{"prompt": "x" * 58}]).code == 0


def test_a_missing_file(w2s, tmp_path):
    assert_refused(w2s("search", tmp_path / "none.jsonl"), "none.jsonl", "no such file")


def test_an_output_that_cannot_be_written_is_known_before_a_model_is_loaded(w2s, tmp_path):
    (tmp_path / "in.txt").write_text("A prompt\n")
    done = w2s(
        "search", tmp_path / "in.txt", "--large", "no/such/model", "-o", tmp_path / "no/out.jsonl"
    )
    assert_refused(done, "no/out.jsonl", "cannot be written")


def test_a_model_that_is_not_there(w2s, tmp_path):
    (tmp_path / "in.txt").write_text("A prompt\n")
    done = w2s("search", tmp_path / "in.txt", "--large", tmp_path / "no-model")
    assert_refused(done, "--large: ", "no-model: there is no such folder or file")
    done = w2s("search", tmp_path / "in.txt", "--pair", "./nowhere", "./nobody")
    assert_refused(done, "--pair: ./nowhere: there is no such folder or file")


def test_guided_decoding_with_a_pair_that_has_another_tokenizer(search, folders):
    done = search([GOOD], "--method", "eft", pair=(folders.stranger, folders.stranger))
    assert_refused(done, "tokenizers", "differ", "'<end>'", "guided decoding (eft)")


def test_a_training_row_that_cannot_be_used(w2s, folders, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    done = w2s("train", "sft", folders.large, tmp_path / "rows.jsonl", "-o", tmp_path / "out")
    assert_refused(done, "rows.jsonl, line 2", '"response"')
    assert not (tmp_path / "out").exists()


def test_a_training_setting_out_of_range(w2s, folders, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "abc"}\n')
    done = w2s(
        "train", "sft", folders.large, tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--lr", -1
    )
    assert_refused(done, "lr=-1.0")


def test_the_exit_code_reaches_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "w2s.cli", "search", str(tmp_path / "none.txt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
