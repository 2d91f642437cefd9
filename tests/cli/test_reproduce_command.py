"""`w2s reproduce` over tiny models: same texts again, interruptions, the report and its page."""

import json
import shutil

import pytest

from w2s import embedded
from w2s.cli import main
from w2s.embedded import Review, ReviewSplit, review_data
from w2s.reproduce import sentiment as module

GOOD, BAD = "a warm and lovely film with great fun", "a dull and awful film with bad acting"


@pytest.fixture(scope="module", autouse=True)
def made_up_reviews():
    def part(count):
        return tuple(
            Review(f"{GOOD if n % 2 else BAD}, number {n}", bool(n % 2), "imdb")
            for n in range(count)
        )

    split = ReviewSplit(part(4), part(40), part(60))
    with pytest.MonkeyPatch.context() as patch:
        for place in (embedded, review_data):
            patch.setattr(place, "reviews", lambda: split)
        yield


def arguments(folders, work, openings=3):
    return [
        "reproduce", "sentiment", "--quick", "--openings", str(openings), "--work", str(work),
        "--large", folders.large, "--pair", folders.tuned, folders.untuned,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """A finished run, for tests that do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(arguments(folders, folder)) == 0
    return folder


@pytest.fixture
def work(whole, tmp_path):
    """A finished run to change."""
    shutil.copytree(whole, tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def reproduce(w2s, folders):
    def run(work, openings=3):
        return w2s(*arguments(folders, work, openings))

    return run


def rows(folder):
    lines = (folder / "batches.jsonl").read_text(encoding="utf-8").splitlines()
    return {(one["run"], one["seed"], one["first"]): one["rows"] for one in map(json.loads, lines)}


def test_it_tells_the_time_then_the_figures(reproduce, whole, tmp_path):
    done = reproduce(tmp_path / "work")
    assert done.code == 0, done.err
    assert "\nabout " in done.err
    assert done.err.index("\nabout ") < done.err.index("judging the texts")
    for name in ("base", "EFT β=1", "BoN-4", "BoN-16", "CBS 4,4,5", "CBS 1,16,5"):
        assert f"\n| {name} | 3 × 1 |" in done.out
    assert "By VADER, the paper's order CBS > BoN ≈ EFT > base **cannot be judged**" in done.out
    found = json.loads((tmp_path / "work/report.json").read_text(encoding="utf-8"))
    assert found["machine"]["threads"] == 1
    assert found["models"]["large"]["dtype"] == "float32"
    assert set(found["versions"]) >= {"torch", "transformers", "w2s-kernels"}
    for plot in ("quality-tokens.svg", "quality-candidates.svg"):
        assert 1_000 < (tmp_path / "work" / plot).stat().st_size < 300_000
    # The same seed gives the same texts.
    assert rows(tmp_path / "work") == rows(whole)


def test_an_interrupted_run_goes_on_to_the_same_texts(reproduce, whole, tmp_path, monkeypatch):
    calls = 0

    def draw(models, batch, *rest, **options):
        nonlocal calls
        if "new_tokens" not in options:
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
        return drawn(models, batch, *rest, **options)

    drawn = module.draw
    monkeypatch.setattr(module, "draw", draw)
    stopped = reproduce(tmp_path / "work")
    assert stopped.code == 130
    assert "3 finished batches" in stopped.err
    assert len(rows(tmp_path / "work")) == 3
    monkeypatch.setattr(module, "draw", drawn)
    on = reproduce(tmp_path / "work")
    assert on.code == 0
    assert "going on after 3 of 6 batches" in on.err
    assert rows(tmp_path / "work") == rows(whole)


def test_a_finished_run_is_only_judged_again(reproduce, work):
    before = (work / "report.json").read_bytes()
    again = reproduce(work)
    assert again.code == 0
    assert "measuring the speed" not in again.err
    assert (work / "report.json").read_bytes() == before


def test_batches_of_other_settings_are_refused(reproduce, work):
    other = reproduce(work, openings=2)
    assert other.code == 2
    assert "scale openings was 3 and is 2 now" in other.err


def test_a_pools_first_draws_are_a_smaller_pools(whole, folders):
    """BoN-4 is read off the pool of 16; a best-of-4 of its own finds the same texts."""
    import w2s

    tokenizer = w2s.load(folders.large).tokenizer
    large, tuned, untuned = (
        w2s.load(folder, tokenizer=tokenizer)
        for folder in (folders.large, folders.tuned, folders.untuned)
    )
    plan = w2s.SearchPlan.bon(4, max_new_tokens=48, temperature=0.7, top_k=50, seed=0)
    openings = embedded.openings(tokenizer, 3)
    alone = w2s.search(
        openings, w2s.LocalProposer(large, plan), w2s.PairScorer(tuned, untuned, plan), plan
    )
    for one, result in zip(rows(whole)["pool of 16", 0, 0], alone, strict=True):
        best = max(range(4), key=one["scores"].__getitem__)
        assert one["texts"][best] == result.best.text
        assert one["tokens"][best] == len(result.best.tokens)
        assert one["written"] == sum(one["tokens"])


def test_the_report_is_published_with_its_plots(w2s, whole, tmp_path):
    page, data = tmp_path / "docs" / "quality.md", tmp_path / "results" / "sentiment.json"
    note = "Other work ran beside it."
    done = w2s("reproduce", "report", whole, "--page", page, "--json", data, "--note", note)
    assert done.code == 0, done.err
    text = page.read_text(encoding="utf-8")
    assert "w2s reproduce sentiment --quick --openings 3 --work" in text
    assert "(quality-tokens.svg)" in text
    assert note in text
    assert (page.parent / "quality-candidates.svg").read_bytes() == (
        whole / "quality-candidates.svg"
    ).read_bytes()
    assert json.loads(data.read_text(encoding="utf-8"))["methods"][0]["name"] == "base"


def test_an_unfinished_run_has_no_report(w2s, work):
    path = work / "batches.jsonl"
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    done = w2s("reproduce", "report", work)
    assert done.code == 2
    assert "1 of 6 batches are missing" in done.err


def test_a_damaged_judge_is_named(w2s, work):
    (work / "judge.npz").write_text("no judge")
    done = w2s("reproduce", "report", work)
    assert done.code == 2
    assert "remove it to have the judge trained again" in done.err


def test_more_openings_than_there_are_is_bad_input(reproduce, tmp_path):
    done = reproduce(tmp_path / "work", openings=100)
    assert done.code == 2
    assert "beyond the 60 held-out reviews" in done.err


def test_the_judge_is_a_command_of_its_own(w2s, tmp_path):
    done = w2s("reproduce", "judge", "-o", tmp_path / "judge.npz")
    assert done.code == 0
    assert "from 40 reviews; right on 100.0% of 60 held-out reviews" in done.out
