"""`w2s search` over tiny random models: what goes in comes out, with the response added."""

import json
import shutil

import pytest

ROWS = [
    {"prompt": "The film", "id": 7},
    {"prompt": "A", "tags": ["x"], "n": None},
    {"prompt": "So"},
]


def with_chat(folders, tmp_path):
    """The large model with a chat template."""
    copy = tmp_path / "chatty"
    shutil.copytree(folders.large, copy)
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    )
    return copy


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_unknown_fields_pass_through_and_the_order_is_kept(search):
    done = search(ROWS)
    assert done.code == 0
    rows = rows_of(done.out)
    added = {"response", "score", "finished", "finish_reason"}
    assert [{k: v for k, v in row.items() if k not in added} for row in rows] == ROWS
    assert all(added <= row.keys() for row in rows)
    assert all(isinstance(row["score"], float) for row in rows)


def test_plain_text_goes_in_and_jsonl_comes_out(search):
    rows = rows_of(search(["One line", "Another"], name="in.txt").out)
    assert [row["prompt"] for row in rows] == ["One line", "Another"]


def test_the_split_into_batches_does_not_change_what_is_drawn(search):
    whole = rows_of(search(ROWS).out)
    alone = rows_of(search(ROWS, "--batch", 1).out)
    assert [row["response"] for row in whole] == [row["response"] for row in alone]


@pytest.mark.parametrize(
    ("method", "count"),
    [("cbs", 16), ("bon", 16), ("eft", 1), ("beam", 16), ("sample", 1), ("greedy", 1)],
)
def test_every_method_runs_and_lists_its_pool_best_first(search, method, count):
    pair = {"pair": None} if method == "beam" else {}
    row = rows_of(search(ROWS[:1], "--method", method, "--candidates", **pair).out)[0]
    scores = [candidate["score"] for candidate in row["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert 1 <= len(scores) <= count
    assert row["candidates"][0]["response"] == row["response"]


@pytest.mark.parametrize("method", ["sample", "greedy", "beam"])
def test_the_pair_is_not_loaded_where_nothing_asks_for_it(search, method, monkeypatch):
    import w2s

    loaded, load = [], w2s.load

    def noted(source, **settings):
        loaded.append(source)
        return load(source, **settings)

    monkeypatch.setattr(w2s, "load", noted)
    row = rows_of(search(ROWS[:1], "--method", method, pair=None).out)[0]
    assert len(loaded) == 1
    assert row["score"] < 0  # the large model's own log-prob


def test_a_pair_that_is_given_scores_a_sample(search):
    alone = rows_of(search(ROWS, "--method", "sample", pair=None).out)
    scored = rows_of(search(ROWS, "--method", "sample").out)
    assert [row["response"] for row in alone] == [row["response"] for row in scored]
    assert all(a["score"] != b["score"] for a, b in zip(alone, scored, strict=True))


def test_greedy_is_the_sample_at_temperature_0(search):
    greedy = rows_of(search(ROWS, "--method", "greedy", pair=None).out)
    cold = rows_of(search(ROWS, "--method", "sample", "--temperature", 0, pair=None).out)
    assert [row["response"] for row in greedy] == [row["response"] for row in cold]


def test_eft_without_strength_writes_what_the_large_model_writes(search):
    alone = rows_of(search(ROWS, "--method", "sample", pair=None).out)
    unguided = rows_of(search(ROWS, "--method", "eft", "--beta", 0).out)
    guided = rows_of(search(ROWS, "--method", "eft").out)
    assert [row["response"] for row in unguided] == [row["response"] for row in alone]
    assert [row["response"] for row in guided] != [row["response"] for row in alone]


def test_eft_composes_with_the_search(search):
    row = rows_of(
        search(ROWS[:1], "--method", "eft", "-W", 2, "-K", 3, "-L", 2, "--candidates").out
    )[0]
    assert len(row["candidates"]) == 6


def test_a_prompt_may_be_a_chat(search, folders, tmp_path):
    chat = [{"role": "system", "content": "Short."}, {"role": "user", "content": "A"}]
    row = rows_of(search([{"prompt": chat}], "--method", "greedy", pair=None, large=with_chat(
        folders, tmp_path)).out)[0]  # fmt: skip
    assert row["prompt"] == chat
    assert len(row["response"]) > 0


def test_the_output_file_is_complete_or_not_there(search, tmp_path):
    done = search(ROWS, "-o", tmp_path / "out.jsonl")
    assert (done.code, done.out) == (0, "")
    assert len(rows_of((tmp_path / "out.jsonl").read_text())) == 3
    assert not (tmp_path / "out.jsonl.partial").exists()
    assert "3 prompts" in done.err


def test_an_interruption_keeps_the_finished_batches(search, tmp_path, monkeypatch):
    from w2s.cli.models import Models

    whole = Models.search

    def interrupted_at_the_second(self, prompts, plan, on_chunk=None, first=0):
        if first == 1:
            raise KeyboardInterrupt
        return whole(self, prompts, plan, on_chunk, first)

    monkeypatch.setattr(Models, "search", interrupted_at_the_second)
    done = search(ROWS, "-o", tmp_path / "out.jsonl", "--batch", 1)
    assert done.code == 130
    assert "interrupted: 1 of 3 rows are finished and kept in" in done.err
    assert not (tmp_path / "out.jsonl").exists()
    kept = rows_of((tmp_path / "out.jsonl.partial").read_text())
    assert [row["prompt"] for row in kept] == ["The film"]


def test_a_stop_text_ends_the_response(search):
    first = rows_of(search(ROWS[:1], "--method", "greedy").out)[0]["response"]
    cut = rows_of(search(ROWS[:1], "--method", "greedy", "--stop", first[2]).out)[0]
    assert cut["response"] == first[: first.index(first[2])]
    assert cut["finish_reason"] == "stop"


def test_a_template_changes_what_the_models_read(search):
    plain = rows_of(search(ROWS[:1], "--method", "greedy").out)[0]
    framed = rows_of(
        search(ROWS[:1], "--method", "greedy", "--large-template", "Review: {prompt}").out
    )[0]
    assert framed["response"] != plain["response"]
