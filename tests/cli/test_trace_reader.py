"""Trace files that are cut off, damaged or something else."""

import json

import pytest

from support.traces import recorded, written
from w2s import SearchPlan

PLAN = SearchPlan(width=3, samples=4, chunk=3, max_new_tokens=18)


def test_a_cut_off_trace_is_drawn_as_far_as_it_goes(w2s, tmp_path):
    path = tmp_path / "t.jsonl"
    recorded(path, PLAN)
    whole = path.read_bytes()
    last = [whole.rfind(b"\n", 0, -1) + 20, whole.find(b"\n") + 5]
    for end in last:
        path.write_bytes(whole[:end])
        done = w2s("trace", path)
        assert done.code == 0
        assert "is cut off" in done.err
    assert "no prompt was begun" in done.out


def test_every_cut_of_a_trace_can_be_read(w2s, tmp_path):
    path = tmp_path / "t.jsonl"
    written(path, ["é" * 3, "日本"], prompt="ü")
    data = json.dumps([json.loads(x) for x in path.read_text().splitlines()], ensure_ascii=False)
    lines = [json.dumps(x, ensure_ascii=False) for x in json.loads(data)]
    whole = "".join(line + "\n" for line in lines).encode()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole), 7):
        path.write_bytes(whole[:end])
        assert w2s("trace", path).code == 0


def changed(**fields):
    return lambda lines: lines[2].update(fields)


BAD = {
    "empty": (lambda lines: lines.clear(), "is empty; w2s search --trace FILE writes"),
    "other": (lambda lines: lines.pop(0), "line 1: is not the header of a trace"),
    "version": (lambda lines: lines[0].update(version=9), "line 1: the trace has format version 9"),
    "plan": (lambda lines: lines[0].update(plan={}), 'line 1: "plan" must have width and samples'),
    "kind": (changed(kind="x"), "line 3: \"kind\" is 'x'"),
    "prompt": (changed(prompt=-1), 'line 3: "prompt" is -1'),
    "unknown": (changed(prompt=4), 'line 3: there is no "prompt" line for prompt 4'),
    "gap": (changed(chunk=2), 'line 3: "chunk" is 2; it must be 0'),
    "parents": (changed(parents=[0, 7]), 'line 3: "parents" must be a list of 2'),
    "texts": (changed(texts=["a"]), 'line 3: "texts" must be a list of 2'),
    "scores": (changed(scores=["x", 1]), 'line 3: "scores" must be a list of 2'),
    "rewrites": (changed(rewrites=[1]), 'line 3: "rewrites" must map'),
    "row": (lambda lines: lines[3].update(row=2), 'line 4: "row" is 2'),
    "missing": (lambda lines: lines[2].pop("frozen"), 'line 3: needs "written"'),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_one_sentence_with_its_line(w2s, tmp_path, fault):
    lines = written(tmp_path / "t.jsonl", ["one", "two"])
    change, said = BAD[fault]
    change(lines)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    done = w2s("trace", tmp_path / "t.jsonl")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 't.jsonl'}" in done.err
    assert said in done.err
    assert done.err.count("\n") == 1


def test_garbage_in_the_middle_is_named(w2s, tmp_path):
    path = tmp_path / "t.jsonl"
    written(path, ["one", "two"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], "{broken", *lines[2:]]) + "\n")
    assert "line 3: is not a JSON object" in w2s("trace", path).err
    path.write_bytes(b"\xff\xfe\n" * 3)
    assert "line 1: is not UTF-8 text" in w2s("trace", path).err


def test_a_missing_file_and_a_missing_prompt_are_one_sentence(w2s, tmp_path):
    written(tmp_path / "t.jsonl", ["one"])
    (tmp_path / "gone.jsonl.partial").write_text("")
    assert "gone.jsonl.partial is there" in w2s("trace", tmp_path / "gone.jsonl").err
    done = w2s("trace", tmp_path / "t.jsonl", "--prompt", 3)
    assert done.code == 2
    assert "--prompt is 3" in done.err
    assert "it has 0 to 0" in done.err
