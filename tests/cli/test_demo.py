"""The demonstration's bookkeeping on stub results: nothing is chosen in the search's favour."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from w2s.cli.demo import compare, last_line, show


def result(*texts):
    pool = [SimpleNamespace(text=text, score=float(-i)) for i, text in enumerate(texts)]
    return SimpleNamespace(candidates=pool, best=pool[0])


def judge(text):
    return 0.5 * text.count("good") - 0.5 * text.count("bad")


@pytest.fixture
def comparisons():
    base = [result("good", "plain [red]", "bad"), result("good", "good", "good")]
    guided = [result("good good"), result("plain")]
    return compare(["One", "Two"], base, guided, judge)


def test_the_base_counts_with_the_mean_of_its_samples(comparisons):
    assert [row.compound for row in comparisons] == [0.0, 0.5]
    assert [row.score for row in comparisons] == [-1.0, -1.0]


def test_the_base_sample_shown_is_the_middle_one_by_score(comparisons):
    assert comparisons[0].shown.text == "plain [red]"


def test_the_last_line_counts_wins_and_losses(comparisons):
    line = last_line(comparisons)
    assert "on 1 of 2 openings by VADER" in line
    assert "(mean +0.50 against +0.25)" in line
    assert "2 of 2 by the pair's own score" in line
    assert "\n" not in line


def test_a_tie_is_no_win():
    even = compare(["One"], [result("good")], [result("good")], judge)
    assert "on 0 of 1 openings by VADER" in last_line(even)


def test_the_table_shows_texts_as_they_are(comparisons):
    screen = io.StringIO()
    show(comparisons, Console(file=screen, width=120))
    assert "plain [red]" in screen.getvalue()
    assert "VADER +0.00" in screen.getvalue()
