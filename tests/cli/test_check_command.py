"""`w2s check`: a table of findings, exit code 1 for errors, and nothing loaded to find them."""

import json
import re
import shutil

import pytest
from transformers import PreTrainedModel

ROWS = '{"prompt": "The film"}\n{"prompt": "So"}\n'


@pytest.fixture
def check(w2s, folders):
    """Runs `w2s check` over the tiny models."""

    def run(*options, large=folders.large, pair=(folders.tuned, folders.untuned)):
        return w2s("check", "--large", large, "--pair", *pair, "--max-new-tokens", 6, *options)

    return run


def codes(done):
    return [finding["code"] for finding in json.loads(done.out)["findings"]]


def test_models_that_fit_are_named_with_what_was_looked_at(check, folders):
    done = check()
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[-1] == "no problems found"
    assert lines[0].startswith(f"looked at the large model ({folders.large}): LlamaForCausalLM")
    assert "257 columns" in lines[0]
    assert "1 weight file" in lines[0]
    assert re.fullmatch(
        r"looked at memory: .* for one prompt at a time, .* for each further one; .* is free",
        lines[3],
    )
    assert len(lines) == 5


def test_errors_are_shown_with_what_to_do_and_end_with_exit_code_1(check, folders):
    done = check(pair=(folders.tuned, folders.stranger))
    assert done.code == 1
    flat = re.sub(r"[\s│]+", " ", done.out)
    assert "error" in flat
    assert "'<end>'" in flat
    assert "[vocabulary]" in flat
    assert "TextBridgeScorer" in flat
    assert done.out.splitlines()[-1] == "1 error, 1 warning"  # the pair's, and the large model's


def test_guided_decoding_needs_one_vocabulary(check, folders):
    done = check("--json", "--method", "eft", pair=(folders.stranger, folders.stranger))
    assert done.code == 1
    assert codes(done) == ["vocabulary", "same-weights"]


def test_warnings_alone_end_with_exit_code_0(check, folders):
    done = check("--json", pair=(folders.tuned, folders.tuned))
    assert done.code == 0
    assert codes(done) == ["same-weights"]


def test_json_holds_the_whole_finding(check, folders):
    report = json.loads(check("--json", pair=(folders.tuned, folders.tuned)).out)
    assert set(report) == {"looked_at", "findings"}
    assert len(report["looked_at"]) == 4  # three models, and the memory
    assert set(report["findings"][0]) == {"level", "what", "what_to_do", "code"}
    assert "every score is 0" in report["findings"][0]["what"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--chat"], "chat-template-missing"),
        (["--system", "Be kind."], "chat-template-missing"),
        (["--large-template", "Review:"], "template"),
        (["--pair-template", "Review:"], "template"),
        (["--max-new-tokens", 64], "context"),
        (["--dtype", "float16", "--device", "cpu"], "slow-dtype"),
        (["--dtype", "bfloat16"], "pair-rounding"),
    ],
)
def test_options_are_checked_too(check, options, code):
    assert code in codes(check("--json", *options))


def test_brackets_in_a_template_are_shown_as_they_are(check):
    done = check("--large-template", "[/INST] [red]")
    assert "[/INST] [red]" in re.sub(r"[\s│]+", " ", done.out)


def test_prompts_are_checked_for_their_length(check, tmp_path):
    (tmp_path / "in.jsonl").write_text(ROWS)
    done = check("--prompts", tmp_path / "in.jsonl")
    assert done.code == 0
    assert "looked at 2 prompts" in done.out
    (tmp_path / "long.txt").write_text("short\n" + "x" * 59 + "\n")
    found = json.loads(check("--json", "--prompts", tmp_path / "long.txt").out)["findings"]
    assert [one["code"] for one in found] == ["context"] * 3
    assert "prompt 1 has 59 tokens, and with 6 new ones" in found[0]["what"]


def test_a_method_without_a_pair_looks_at_the_large_model_alone(w2s, folders):
    done = w2s("check", "--json", "--large", folders.large, "--method", "greedy")
    assert done.code == 0
    looked_at = json.loads(done.out)["looked_at"]
    assert [line.split()[0] for line in looked_at] == ["the", "memory:"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--large", "./no-such-folder"], "no-such-folder"),
        (["--prompts", "no-such-file.txt"], "no such file"),
        (["--device", "abacus"], "abacus"),
        (["--dtype", "float3"], "float3"),
        (["-W", 0], "--width is 0"),
        (["--method", "magic"], "--method"),
    ],
)
def test_bad_input_ends_with_exit_code_2(check, options, part):
    done = check(*options)
    assert (done.code, done.out) == (2, "")
    assert part in done.err
    assert done.err.count("\n") == 1


def refuse_to_load(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(refuse))


def test_no_weights_are_loaded(check, monkeypatch):
    refuse_to_load(monkeypatch)
    assert check().code == 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"pair": ("stranger", "tuned")}, "'<end>'"),
        ({"chat": True}, "chat template"),
        ({"pair": ("tuned", "cut off")}, "is cut off"),
    ],
)
def test_a_search_refuses_before_any_weights_load(search, folders, tmp_path, monkeypatch, options,
                                                  part):  # fmt: skip
    refuse_to_load(monkeypatch)
    shutil.copytree(folders.untuned, tmp_path / "short")
    path = tmp_path / "short" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    names = vars(folders) | {"cut off": str(tmp_path / "short")}
    pair = tuple(names[name] for name in options.get("pair", ("tuned", "untuned")))
    done = search([{"prompt": "A"}], *(["--chat"] if "chat" in options else []), pair=pair)
    assert (done.code, done.out) == (2, "")
    assert part in done.err


def test_a_search_says_its_warnings_and_goes_on(search, folders):
    done = search([{"prompt": "A"}], pair=(folders.tuned, folders.tuned))
    assert done.code == 0
    assert "w2s: warning: " in done.err
    assert "every score is 0" in done.err


def test_a_pair_with_another_tokenizer_scores_the_text_and_the_search_says_so(search, folders):
    other = (folders.stranger, folders.stranger)
    done = search([{"prompt": "The film"}], "--large", folders.large, pair=other)
    assert done.code == 0
    assert "'<end>'" in done.err
    assert "TextBridgeScorer" in done.err
    assert json.loads(done.out)["score"] == 0.0  # one model given twice
