"""Trace files: everything of a round, written the moment it is known."""

import contextlib
import json

import pytest

from w2s.cli.errors import BadInput
from w2s.cli.trace_file import TraceFile, trace_header
from w2s.plan import SearchPlan
from w2s.results import Candidate, ChunkTrace, SearchResult

PLAN = SearchPlan(width=1, samples=2, chunk=2, max_new_tokens=4)
MODELS = {"large": "big", "tuned": "t", "untuned": "u"}


def as_bytes(tokens):
    """A tokenizer whose tokens are bytes: half characters are common."""
    return bytes(tokens).decode("utf-8", errors="replace")


def trace_file(target, *, resume=False, method="cbs"):
    return TraceFile(str(target), trace_header(PLAN, method, MODELS), resume=resume)


def a_round(number, tokens, *, scores, parents=((0, 0),), frozen=(False,), finished=None):
    return ChunkTrace(
        chunk=number,
        written=2 * (number + 1),
        limit=PLAN.max_new_tokens,
        tokens=tokens,
        scores=scores,
        finished=finished or [False] * len(tokens),
        parents=parents,
        valid=[[True]] * len(parents),
        frozen=frozen,
        best=[max(row) for row in scores],
        new_tokens=sum(map(len, tokens)),
        seconds=0.25,
    )


def a_result(text, tokens, score):
    return SearchResult("p", [Candidate(text, tokens, score, False, "length")])


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_trace_holds_all_of_a_search(tmp_path):
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(5, ["The film"], as_bytes)
        trace.on_chunk(a_round(0, [[97, 98], [99, 100]], scores=[[1.0, 2.5]], parents=[[1, 1]]))
        trace.on_chunk(a_round(1, [[101, 102], [103]], scores=[[3.0, float("nan")]]))
        trace.finish([a_result("cdef", [99, 100, 101, 102], 3.0)])
        trace.complete()
    header, prompt, first, second, result = lines_of(tmp_path / "t.jsonl")
    assert (header["format"], header["version"], header["method"]) == ("w2s-trace", 1, "cbs")
    assert header["plan"]["width"] == 1
    assert header["models"] == MODELS
    assert prompt == {"kind": "prompt", "prompt": 5, "text": "The film"}
    assert (first["prompt"], first["chunk"], first["written"]) == (5, 0, 2)
    assert (first["tokens"], first["texts"]) == ([[97, 98], [99, 100]], ["ab", "cd"])
    assert (first["parents"], first["valid"], first["frozen"]) == ([1, 1], [True], False)
    assert (second["texts"], second["scores"]) == (["ef", "g"], [3.0, None])
    assert (result["row"], result["text"], result["score"]) == (0, "cdef", 3.0)


def test_half_a_character_waits_for_its_other_half(tmp_path):
    euro = list("€".encode())
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], as_bytes)
        trace.on_chunk(a_round(0, [[97, euro[0]], [97, 98]], scores=[[1.0, 0.0]]))
        trace.on_chunk(a_round(1, [euro[1:], [98, euro[0]]], scores=[[1.0, 0.0]]))
        trace.complete()
    first, second = lines_of(tmp_path / "t.jsonl")[2:]
    assert first["texts"] == ["a", "ab"]
    # Row 1 continues "a€"'s first byte too; what stays half a character at the end is shown as one.
    assert second["texts"] == ["€", "\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"]
    assert "rewrites" not in second


def test_a_text_that_changes_behind_us_is_written_whole(tmp_path):
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], lambda ids: as_bytes(ids[::-1]))
        trace.on_chunk(a_round(0, [[97], [98]], scores=[[1.0, 0.0]], parents=[[0, 1]]))
        trace.on_chunk(a_round(1, [[99], []], scores=[[1.0, 0.0]]))
        trace.complete()
    assert lines_of(tmp_path / "t.jsonl")[3]["rewrites"] == {"0": "ca"}


def test_a_frozen_prompt_writes_no_more_lines(tmp_path):
    both = {"scores": [[1.0, 0.0], [1.0, 0.0]], "parents": [[0, 1], [0, 1]]}
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p", "q"], as_bytes)
        trace.on_chunk(a_round(0, [[97], [97], [97], [97]], frozen=[True, False], **both))
        trace.on_chunk(a_round(1, [[], [], [97], [97]], frozen=[True, False], **both))
        trace.complete()
    rounds = [x for x in lines_of(tmp_path / "t.jsonl") if x["kind"] == "chunk"]
    assert [(x["prompt"], x["chunk"]) for x in rounds] == [(0, 0), (1, 0), (1, 1)]


def test_an_interruption_leaves_every_round_so_far(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], as_bytes)
        trace.on_chunk(a_round(0, [[97], [98]], scores=[[1.0, 0.0]]))
        kept = lines_of(tmp_path / "t.jsonl.partial")  # already there, nothing is waited for
        raise KeyboardInterrupt
    assert lines_of(tmp_path / "t.jsonl.partial") == kept
    assert [line["kind"] for line in kept] == ["header", "prompt", "chunk"]


def test_a_trace_that_cannot_be_written_is_known_at_once(tmp_path):
    with pytest.raises(BadInput, match="cannot be written"):
        trace_file(tmp_path)


def test_a_result_without_a_score_names_no_winner(tmp_path):
    nan = float("nan")
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], as_bytes)
        trace.on_chunk(a_round(0, [[97], [98]], scores=[[nan, nan]]))
        trace.finish([SearchResult("p", [])])
        trace.complete()
    assert lines_of(tmp_path / "t.jsonl")[-1] == {"kind": "result", "prompt": 0, "row": None}


def test_a_resumed_trace_goes_on_behind_the_torn_line(tmp_path):
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], as_bytes)
    with (tmp_path / "t.jsonl.partial").open("a") as torn:
        torn.write('{"kind": "chu')
    with trace_file(tmp_path / "t.jsonl", resume=True) as trace:
        trace.start(0, ["p"], as_bytes)
        trace.complete()
    assert [line["kind"] for line in lines_of(tmp_path / "t.jsonl")] == ["header", *["prompt"] * 2]


def test_the_trace_of_an_interrupted_run_is_not_overwritten(tmp_path):
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["p"], as_bytes)
    before = (tmp_path / "t.jsonl.partial").read_text()
    with pytest.raises(BadInput, match="holds the trace of an interrupted run"):
        trace_file(tmp_path / "t.jsonl")
    with pytest.raises(BadInput, match="is the trace of another search"):
        trace_file(tmp_path / "t.jsonl", resume=True, method="bon")
    assert (tmp_path / "t.jsonl.partial").read_text() == before


def test_a_run_that_searched_nothing_leaves_no_file_and_keeps_the_old_one(tmp_path):
    (tmp_path / "t.jsonl").write_text("old\n")
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.complete()
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    assert (tmp_path / "t.jsonl").read_text() == "old\n"


def test_a_chat_is_written_with_its_roles(tmp_path):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, [chat], as_bytes)
        trace.complete()
    assert lines_of(tmp_path / "t.jsonl")[1]["text"] == "system: Be kind.\nuser: Hello"


def test_half_a_surrogate_pair_in_a_prompt_is_no_obstacle(tmp_path):
    with trace_file(tmp_path / "t.jsonl") as trace:
        trace.start(0, ["\ud83d"], as_bytes)
        trace.complete()
    assert lines_of(tmp_path / "t.jsonl")[1]["text"] == "\ud83d"
