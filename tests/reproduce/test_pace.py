"""The time is told before the work, and corrected by it."""

import pytest

from w2s.reproduce.experiment import NEW_TOKENS, quick
from w2s.reproduce.pace import PROBE_TOKENS, announcement, duration, paced, seconds_left

RATE = 0.002  # seconds a row and token


def probe_of(rate, probed):
    def probe(batch):
        probed.append(batch.run.shape)
        return rate * batch.tokens * PROBE_TOKENS / NEW_TOKENS

    return probe


def test_each_shape_is_probed_once():
    probed = []
    paced(quick(), {}, probe_of(RATE, probed))
    assert sorted(probed) == ["guided", "pool", "search 10", "search 5"]


def test_the_time_is_that_of_all_rows_and_tokens():
    experiment = quick()
    pace = paced(experiment, {}, probe_of(RATE, []))
    rows = 48 * (16 + 16 + 2) + 24 * (4 + 16 + 16)
    expected = RATE * rows * NEW_TOKENS
    assert seconds_left(experiment.batches(), pace) == pytest.approx(expected)
    said = announcement(list(experiment.batches()), pace)
    assert said.startswith(f"about {duration(expected)}: ")
    for part in ("pool of 16 74 s", "CBS 4,4,5 74 s", "CBS 1,16,5 37 s", "EFT β=1 9 s"):
        assert part in said
    assert said.index("pool of 16") < said.index("CBS 4,4,10") < said.index("EFT")


def test_finished_batches_tell_the_time_of_the_others():
    experiment = quick()
    batches = list(experiment.batches())
    done = {
        batch.key: {"seconds": 3 * RATE * batch.tokens}
        for batch in batches
        if batch.run.name == "CBS 4,4,5"
    }
    probed = []
    pace = paced(experiment, done, probe_of(RATE, probed))
    assert "search 5" not in probed
    other = next(batch for batch in batches if batch.run.name == "CBS 1,16,5")
    assert pace.seconds(other) == pytest.approx(3 * RATE * other.tokens)


def test_what_is_observed_replaces_what_was_calibrated():
    batch = next(quick().batches())
    pace = paced(quick(), {}, probe_of(RATE, []))
    pace.observe(batch, 5 * RATE * batch.tokens)
    assert pace.seconds(batch) == pytest.approx(5 * RATE * batch.tokens)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (75, "75 s"), (95, "2 min"), (2820, "47 min"), (7300, "2 h 2 min")],
)
def test_durations_read_naturally(seconds, said):
    assert duration(seconds) == said
