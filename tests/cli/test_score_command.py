"""`w2s score` over tiny random models: scores are added, everything else goes through."""

import json
import shlex

import pytest

import w2s as package

ROWS = [
    {"prompt": "The film", "response": " was good", "id": 7},
    {"prompt": "A", "response": "", "tags": ["x"], "n": None},
    {"prompt": "The film", "response": " bad"},
]
PREFERENCES = [
    {"prompt": "The film", "chosen": " was good", "rejected": " bad", "id": 1},
    {"prompt": "So", "chosen": "x", "rejected": "yz"},
    {"prompt": "So", "chosen": "same", "rejected": "same"},
]


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def score(w2s, folders, tmp_path):
    """Runs `w2s score` with the tiny pair on these input lines."""

    def run(lines, *options):
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in text))
        pair = () if "--pair" in options else ("--pair", folders.tuned, folders.untuned)
        return w2s("score", tmp_path / "in.jsonl", *pair, *options)

    return run


def expected(folders, rows, field, **settings):
    prompts, responses = [r["prompt"] for r in rows], [r[field] for r in rows]
    return package.score(prompts, responses, (folders.tuned, folders.untuned), **settings)


def test_responses_get_their_score_and_keep_their_fields(score, folders):
    done = score(ROWS)
    assert done.code == 0, done.err
    rows = rows_of(done.out)
    for row, given, found in zip(rows, ROWS, expected(folders, ROWS, "response"), strict=True):
        assert row == {**given, "score": found.total, "n_tokens": found.n_tokens}
    assert rows[1]["score"] == rows[1]["n_tokens"] == 0
    assert "3 rows, 13 response tokens" in done.err


def test_each_tokens_difference_is_listed_on_demand(score, folders):
    rows = rows_of(score(ROWS, "--per-token", "--eos").out)
    for row, found in zip(rows, expected(folders, ROWS, "response", eos=True), strict=True):
        assert row["per_token"] == found.per_token
        assert row["n_tokens"] == len(row["response"]) + 1


def test_preferences_get_margins_and_an_accuracy(score, folders):
    done = score(PREFERENCES)
    chosen, rejected = (expected(folders, PREFERENCES, f) for f in ("chosen", "rejected"))
    margins = []
    for row, given, a, b in zip(rows_of(done.out), PREFERENCES, chosen, rejected, strict=True):
        assert row.items() >= given.items()
        assert row["chosen_score"] == pytest.approx(a.total, abs=1e-5)
        assert row["rejected_score"] == pytest.approx(b.total, abs=1e-5)
        assert row["margin"] == row["chosen_score"] - row["rejected_score"]
        margins.append(row["margin"])
    assert margins[2] == 0.0
    right = sum(margin > 0 for margin in margins)  # a tie is no success
    last = done.err.splitlines()[-1]
    assert last.startswith(f"pairwise accuracy {right / 3:.4f} ({right} of 3 rows")


def test_other_fields_and_a_template_are_taken(score, folders):
    rows = [{"q": "The film", "a": " was good"}]
    plain = rows_of(score(rows, "--field", "q", "--response-field", "a").out)[0]
    framed = rows_of(
        score(
            rows, "--field", "q", "--response-field", "a", "--pair-template", "Review: {prompt}"
        ).out
    )[0]
    direct = package.score(
        ["The film"], [" was good"], (folders.tuned, folders.untuned), template="Review: {prompt}"
    )[0]
    assert plain["score"] != framed["score"] == direct.total


def test_a_pair_without_tokenizers_takes_one_by_name(score, folders):
    alone = ("--pair", folders.untuned, folders.untuned)
    done = score(ROWS, *alone)
    assert done.code == 2
    assert "neither" in done.err
    assert "give --tokenizer" in done.err
    rows = rows_of(score(ROWS, *alone, "--tokenizer", folders.large).out)
    assert [row["score"] for row in rows] == [0.0] * 3


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C in the batch of this number."""
    from w2s import scoring

    whole, calls = scoring.score_rows, []

    def interrupted(rows, models, *, at):
        calls.append(len(rows))
        if len(calls) == at:
            raise KeyboardInterrupt
        return whole(rows, models)

    return lambda at: monkeypatch.setattr(
        scoring, "score_rows", lambda rows, models: interrupted(rows, models, at=at)
    )


def test_the_output_file_grows_batch_by_batch_and_is_complete_or_not_there(
    score, tmp_path, interrupt
):
    out = tmp_path / "out.jsonl"
    whole = rows_of(score(PREFERENCES).out)
    interrupt(3)
    done = score(PREFERENCES, "-o", out, "--batch", 1)
    assert done.code == 130
    assert "interrupted: 2 of 3 rows" in done.err
    assert not out.exists()
    assert len(rows_of((tmp_path / "out.jsonl.partial").read_text())) == 2
    refused = score(PREFERENCES, "-o", out, "--eos", "--resume")
    assert refused.code == 2
    assert "--eos was false and is true now" in refused.err
    done = score(PREFERENCES, "-o", out, "--resume")
    assert (done.code, done.out) == (0, "")
    assert "1 rows after 2 earlier ones" in done.err
    assert "of 3 rows have the chosen response above" in done.err.splitlines()[-1]
    for row, other in zip(rows_of(out.read_text()), whole, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert "is complete already" in score(PREFERENCES, "-o", out, "--resume").err


GOOD = ROWS[0]
REFUSED = {
    "no response": (
        [{"prompt": "x"}], [],
        ["in.jsonl, line 1", 'neither a field "response" nor "chosen" and "rejected"'],
    ),
    "only chosen": ([{"prompt": "x", "chosen": "y"}], [], ["line 1", 'no field "rejected"']),
    "one lacks it": ([GOOD, {"prompt": "x"}], [], ["in.jsonl, line 2", 'no field "response"']),
    "no string": (
        [GOOD, {"prompt": "x", "response": 3}], [],
        ["in.jsonl, line 2", '"response" must be a string'],
    ),
    "no prompt": ([{"response": "x"}], [], ["in.jsonl, line 1", 'no field "prompt"']),
    "named field": ([GOOD], ["--response-field", "text"], ["line 1", 'no field "text"']),
    "too long": (
        [GOOD, {"prompt": "x" * 60, "response": "yyyyy"}], [],
        ["in.jsonl, line 2", '"prompt" has 60 tokens', "the 5 of its response", "64 positions"],
    ),
    "empty file": ([], [], ["in.jsonl: is empty"]),
    "batch": ([GOOD], ["--batch", 0], ["--batch is 0"]),
    "template": ([GOOD], ["--pair-template", "no place"], ["{prompt}"]),
    "device": ([GOOD], ["--device", "abacus"], ["abacus"]),
    "pair": ([GOOD], ["--pair", "/no/such", "/no/model"], ["/no/such"]),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "options", "parts"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_ends_with_one_sentence(score, tmp_path, lines, options, parts):
    done = score(lines, *options, "-o", tmp_path / "out.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("w2s: ")
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_response_that_just_fits_is_scored(score):
    assert score([{"prompt": "x" * 60, "response": "yyyy"}]).code == 0


def test_the_help_shows_an_example_that_runs(w2s, folders, monkeypatch, tmp_path):
    shown = " ".join(w2s("score", "--help").out.split("Example:")[1].split())
    given, command = shown.split(" | ")
    (tmp_path / "in.txt").write_text(shlex.split(given)[1] + "\n")
    with (tmp_path / "in.txt").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        pair = ("--pair", folders.tuned, folders.untuned)
        done = w2s(*shlex.split(command)[1:], *pair)
    assert done.code == 0, done.err
    row = rows_of(done.out)[0]
    assert row["prompt"] == "This film was"
    assert row["n_tokens"] == len(" a joy.")


@pytest.mark.models
def test_the_embedded_pair_is_the_default(w2s, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"prompt": "This film was", "chosen": " wonderful.", "rejected": " terrible."}\n'
    )
    done = w2s("score", tmp_path / "in.jsonl")
    assert done.code == 0, done.err
    assert rows_of(done.out)[0]["margin"] > 0
