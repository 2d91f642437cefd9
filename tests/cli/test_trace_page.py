"""The page of a trace: all in one file, and a model's text is only ever text."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from support.traces import decode, recorded, winners_path, written
from w2s import SearchPlan
from w2s.cli import trace_page

PLAN = SearchPlan(width=3, samples=4, chunk=3, max_new_tokens=18)
EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "@SCRIPT@",
]


@pytest.fixture
def page(w2s, tmp_path):
    """Draws the page of `t.jsonl`; its text."""

    def draw(*options):
        done = w2s("trace", tmp_path / "t.jsonl", "--html", tmp_path / "t.html", *options)
        assert done.code == 0, done.err
        return (tmp_path / "t.html").read_text(encoding="utf-8")

    return draw


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_no_text_becomes_markup(page, tmp_path):
    written(tmp_path / "t.jsonl", EVIL, prompt=EVIL[0])
    drawn = page()
    assert drawn.count("<script") == drawn.count("</script>") == 2
    assert "<img" not in drawn
    assert "<!--" not in drawn
    assert data_of(drawn)["prompts"][0]["rounds"][0]["gained"] == EVIL
    assert data_of(drawn)["prompts"][0]["text"] == EVIL[0]


def test_only_its_own_script_may_run_and_nothing_be_loaded(page, tmp_path):
    written(tmp_path / "t.jsonl", ["one"])
    drawn = page()
    script = re.findall(r"<script>(.*?)</script>", drawn, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', drawn)[1]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(src|href)=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", drawn)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_the_page_holds_the_raw_rounds(page, tmp_path):
    done = recorded(tmp_path / "t.jsonl", PLAN, prompts=2)
    for p, prompt in enumerate(data_of(page())["prompts"]):
        size = PLAN.pool
        for number, (chunk, drawn) in enumerate(zip(done.chunks, prompt["rounds"], strict=True)):
            assert drawn["tokens"] == chunk.tokens[p * size : (p + 1) * size]
            assert drawn["score"] == pytest.approx(chunk.scores[p], abs=1e-6)
            before = done.chunks[number - 1].parents[p] if number else [None] * size
            assert drawn["parent"] == before
            kept = [row for row in range(size) if drawn["fate"][row] == "kept"]
            assert sorted(kept) == sorted(chunk.parents[p][:: PLAN.samples])
        path = [r["gained"][r["path"]] for r in prompt["rounds"]]
        assert path == [text for _, text, _ in winners_path(done.chunks, p)]


def test_a_trace_and_its_page_go_through_pipes(w2s, page, tmp_path, monkeypatch):
    recorded(tmp_path / "t.jsonl", PLAN)
    whole = page()
    with (tmp_path / "t.jsonl").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert w2s("trace", "-", "--html", "-").out == whole


def test_one_prompt_can_be_chosen(page, tmp_path):
    recorded(tmp_path / "t.jsonl", PLAN, prompts=3)
    assert [p["place"] for p in data_of(page("--prompt", 2))["prompts"]] == [2]


def test_a_page_that_would_be_too_large_says_what_is_left_out(w2s, tmp_path, monkeypatch):
    recorded(tmp_path / "t.jsonl", PLAN, prompts=3)
    monkeypatch.setattr(trace_page, "LIMIT", PLAN.pool * 6 * 2)
    done = w2s("trace", tmp_path / "t.jsonl", "--html", tmp_path / "t.html")
    assert "1 prompt left out" in done.err
    assert len(data_of((tmp_path / "t.html").read_text())["prompts"]) == 2


def test_a_page_of_an_empty_trace_says_so(page, tmp_path):
    lines = written(tmp_path / "t.jsonl", ["one"])
    (tmp_path / "t.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert data_of(page())["prompts"] == []


def test_a_page_that_cannot_be_written_is_one_sentence(w2s, tmp_path):
    written(tmp_path / "t.jsonl", ["one"])
    for place in (tmp_path, tmp_path / "no" / "t.html"):
        done = w2s("trace", tmp_path / "t.jsonl", "--html", place)
        assert done.code == 2
        assert "cannot be written" in done.err


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_draws_every_candidate_and_runs_no_text(page, tmp_path):
    done = recorded(tmp_path / "t.jsonl", PLAN)
    trace = (tmp_path / "t.jsonl").read_text().splitlines()
    trace[1] = json.dumps({"kind": "prompt", "prompt": 0, "text": EVIL[0] + EVIL[2]})
    (tmp_path / "t.jsonl").write_text("\n".join(trace) + "\n")
    page()
    drawn = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
            f"file://{tmp_path / 't.html'}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    cards = re.findall(r'<button class="card ([^"]*)"', drawn)
    assert len(cards) == PLAN.pool * len(done.chunks)
    assert sum("path" in card for card in cards) == len(done.chunks)
    assert "<img" not in drawn
    assert "&lt;img src=x" in drawn
    # The winner is in the detail, chunk after chunk.
    segments = re.findall(r'<span class="seg"[^>]*>([a-z]*)</span>', drawn)
    assert "".join(segments) == decode(done.results[0].best.tokens)
