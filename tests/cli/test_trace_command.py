"""`w2s trace`: the tree tells what the search did, whatever the texts hold and wherever it goes."""

import json
import re

import pytest

from support.traces import decode, recorded, winners_path, written
from w2s import SearchPlan


def heavy_lines(text):
    """(round, text gained, score) of the lines on the heavy rail."""
    found = re.findall(
        r"^ *(?:\d+–)?(\d+) +([+-][\d.]+) +[+-][\d.]+  [┏┣┗╺] ?(\S+)", text, re.MULTILINE
    )
    return [(int(number), gained, float(score)) for number, score, gained in found]


PLAN = SearchPlan(width=3, samples=4, chunk=3, max_new_tokens=18)


@pytest.mark.parametrize("seed", range(6))
def test_the_heavy_line_is_the_winners_path_of_the_raw_rounds(w2s, tmp_path, seed):
    done = recorded(tmp_path / "t.jsonl", PLAN, seed=seed)
    drawn = heavy_lines(w2s("trace", tmp_path / "t.jsonl").out)
    expected = winners_path(done.chunks)
    assert [(n, text) for n, text, _ in drawn] == [(n, text) for n, text, _ in expected]
    assert all(abs(a[2] - b[2]) < 0.006 for a, b in zip(drawn, expected, strict=True))
    assert "".join(text for _, text, _ in drawn) == done.results[0].best.text


@pytest.mark.parametrize("seed", range(4))
def test_every_kept_hypothesis_has_its_line_and_every_other_is_counted(w2s, tmp_path, seed):
    done = recorded(tmp_path / "t.jsonl", PLAN, seed=seed)
    out = w2s("trace", tmp_path / "t.jsonl").out
    lines = [line for line in out.splitlines() if re.match(r" +\d+ +[+-][\d.]+ ", line)]
    for number, chunk in enumerate(done.chunks, start=1):
        kept = {decode(chunk.tokens[row]) for row in chunk.parents[0][:: PLAN.samples]}
        shown = [line for line in lines if line.split()[0] == str(number)]
        assert len(shown) == PLAN.width
        assert all(any(text in line for line in shown) for text in kept)
    dropped = sum(map(int, re.findall(r"(\d+) dropped", out)))
    assert dropped == len(done.chunks) * (PLAN.pool - PLAN.width)


def test_all_shows_every_candidate(w2s, tmp_path):
    done = recorded(tmp_path / "t.jsonl", PLAN)
    out = w2s("trace", tmp_path / "t.jsonl", "--all").out
    for chunk in done.chunks:
        assert all(decode(tokens) in out for tokens in chunk.tokens)


def test_finished_hypotheses_and_their_clones_are_told(w2s, tmp_path):
    done = recorded(tmp_path / "t.jsonl", PLAN, eos=0.15, seed=1)
    out = w2s("trace", tmp_path / "t.jsonl").out
    assert any(any(chunk.finished) for chunk in done.chunks)
    assert "✓ finished" in out
    assert done.results[0].best.text == "".join(t for _, t, _ in heavy_lines(out))
    assert "clone" in w2s("trace", tmp_path / "t.jsonl", "--all").out


def test_a_frozen_prompts_winner_is_found_beside_one_that_runs_on(w2s, tmp_path):
    path = tmp_path / "t.jsonl"
    done = recorded(path, SearchPlan(width=1, samples=2, chunk=2, max_new_tokens=12),
                    prompts=6, eos=0.2, seed=3)  # fmt: skip
    assert any(done.chunks[-1].frozen)
    for prompt in range(6):
        drawn = heavy_lines(w2s("trace", path, "--prompt", prompt).out)
        text = "".join(t for _, t, _ in drawn).replace("(no", "")
        assert text == done.results[prompt].best.text


PLANS = {
    "bon": SearchPlan.bon(16, max_new_tokens=12),
    "sample": SearchPlan.sample(max_new_tokens=12),
    "beam": SearchPlan(width=4, samples=4, chunk=1, max_new_tokens=40),
}


@pytest.mark.parametrize("method", PLANS)
def test_every_method_has_its_tree(w2s, tmp_path, method):
    plan = PLANS[method]
    done = recorded(tmp_path / "t.jsonl", plan, rounds=plan.max_new_tokens // plan.chunk_length)
    shown = w2s("trace", tmp_path / "t.jsonl")
    assert shown.code == 0
    assert "★ the winner" in shown.out
    assert done.results[0].best.text in shown.out
    if method == "bon":
        assert len(re.findall(r"^ +1 ", shown.out, re.MULTILINE)) == 16


@pytest.mark.parametrize("width", [30, 44, 60, 100, 200])
def test_no_line_is_wider_than_asked_and_a_pipe_gets_no_colours(w2s, tmp_path, width):
    plan = SearchPlan(width=4, samples=4, chunk=1, max_new_tokens=60)
    recorded(tmp_path / "t.jsonl", plan, rounds=60)
    out = w2s("trace", tmp_path / "t.jsonl", "--width", width).out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= max(width, 44)


def test_the_other_prompts_are_listed(w2s, tmp_path):
    recorded(tmp_path / "t.jsonl", PLAN, prompts=15, rounds=2)
    out = w2s("trace", tmp_path / "t.jsonl").out
    assert "14 other prompts; --prompt N draws one" in out
    assert "and 2 more" in out
    assert "prompt 14: prompt 14" in w2s("trace", tmp_path / "t.jsonl", "--prompt", 14).out


def test_a_pool_of_thousands_is_drawn(w2s, tmp_path):
    plan = SearchPlan(width=8, samples=256, chunk=2, max_new_tokens=6)
    recorded(tmp_path / "t.jsonl", plan, rounds=3)
    done = w2s("trace", tmp_path / "t.jsonl")
    assert (done.code, len(done.out.splitlines()) < 60) == (0, True)


def test_what_cannot_be_seen_is_shown_and_nothing_reaches_the_terminal(w2s, tmp_path):
    texts = ["a\nb\tc\rd", "\x1b[31mred\x07\x9b", "\u202eevil\u200b", "مرحبا", "👩\u200d👧 日本"]
    written(tmp_path / "t.jsonl", texts, prompt="x\x1b[2Jy")
    out = w2s("trace", tmp_path / "t.jsonl", "--all").out
    assert "a↵b⇥c␍d" in out
    assert "␛[31mred␇‹U+009B›" in out
    assert "‹U+202E›evil‹U+200B›" in out
    assert "مرحبا" in out
    assert "👩\u200d👧 日本" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)


@pytest.mark.parametrize("score", [None, "inf", "-inf"])
def test_scores_that_are_no_numbers_are_drawn(w2s, tmp_path, score):
    lines = written(tmp_path / "t.jsonl", ["one", "two"])
    lines[2]["scores"] = [score, None]
    lines[3] |= {"row": None} if score is None else {"score": score}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    done = w2s("trace", tmp_path / "t.jsonl", "--all")
    assert done.code == 0
    assert "unscored" in done.out
    assert w2s("trace", tmp_path / "t.jsonl", "--html", tmp_path / "t.html").code == 0


def test_a_search_is_traced_and_drawn(search, w2s, tmp_path):
    path = tmp_path / "t.jsonl"
    found = search(["One", "Two"], "--trace", path, "--batch", 1, name="in.txt")
    assert found.code == 0, found.err
    for prompt, line in enumerate(found.out.splitlines()):
        row = json.loads(line)
        result = [json.loads(x) for x in path.read_text().splitlines()]
        result = [x for x in result if x["kind"] == "result"][prompt]
        assert (result["text"], result["score"]) == (row["response"], row["score"])
        assert result["row"] is not None
        assert w2s("trace", path, "--prompt", prompt).code == 0


def test_a_trace_changes_nothing_of_the_results(search, tmp_path):
    plain = search(["One", "Two"], name="in.txt").out
    assert search(["One", "Two"], "--trace", tmp_path / "t.jsonl", name="in.txt").out == plain


def test_a_trace_needs_a_file_of_its_own(search, tmp_path):
    out = tmp_path / "o.jsonl"
    assert "give them two names" in search(["One"], "--trace", out, "-o", out, name="in.txt").err
    assert "needs the name of a file" in search(["One"], "--trace", "-", name="in.txt").err
    nowhere = tmp_path / "no" / "t.jsonl"
    done = search(["One"], "--trace", nowhere, name="in.txt")
    assert (done.code, done.out) == (2, "")
    assert "cannot be written" in done.err


def test_a_resumed_search_goes_on_with_its_trace(search, w2s, tmp_path, monkeypatch):
    from w2s.cli.models import Models

    rows, path = ["One", "Two", "Three"], tmp_path / "t.jsonl"
    options = ["-o", tmp_path / "o.jsonl", "--trace", path, "--batch", 1]
    whole = Models.search

    def interrupted_at_the_second(self, prompts, plan, on_chunk=None, first=0):
        found = whole(self, prompts, plan, on_chunk, first)
        if first == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Models, "search", interrupted_at_the_second)
    assert search(rows, *options, name="in.txt").code == 130
    drawn = w2s("trace", tmp_path / "t.jsonl.partial", "--prompt", 1)
    assert "1 of 2 prompts have no result" in drawn.err
    monkeypatch.setattr(Models, "search", whole)
    done = search(rows, *options, "--resume", name="in.txt")
    assert done.code == 0, done.err
    drawn = w2s("trace", path, "--prompt", 1)
    assert (drawn.code, drawn.err) == (0, "")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    results = {x["prompt"]: x["text"] for x in lines if x["kind"] == "result"}
    written_rows = [json.loads(x) for x in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [results[p] for p in range(3)] == [row["response"] for row in written_rows]


@pytest.mark.parametrize("method", ["cbs", "bon", "eft", "beam", "sample", "greedy"])
def test_every_method_of_the_command_line_can_be_traced(w2s, folders, tmp_path, method):
    source, path = tmp_path / "in.txt", tmp_path / "t.jsonl"
    source.write_text("One\n")
    pair = [] if method == "beam" else ["--pair", folders.tuned, folders.untuned]
    done = w2s(
        "search", source, "--large", folders.large, *pair, "--method", method,
        "--max-new-tokens", 6, "--trace", path,
    )  # fmt: skip
    assert done.code == 0, done.err
    drawn = w2s("trace", path)
    assert drawn.code == 0
    assert drawn.out.startswith(f"{method} · ")
    assert ("beta 1.0" in drawn.out) == (method == "eft")
    assert "★ the winner" in drawn.out
