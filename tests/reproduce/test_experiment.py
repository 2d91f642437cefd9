"""What is drawn: all of it once, and enough of it."""

from collections import Counter

import pytest

from w2s.reproduce.experiment import NEW_TOKENS, full, quick

SCALES = {"full": full, "quick": quick}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_every_opening_of_a_run_is_drawn_once_a_seed(scale):
    experiment = scale()
    drawn = Counter(
        (batch.run.name, batch.seed, opening)
        for batch in experiment.batches()
        for opening in range(batch.first, batch.end)
    )
    assert drawn == Counter(
        (run.name, seed, opening)
        for run in experiment.runs
        for seed in run.seeds
        for opening in range(run.openings)
    )


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_no_batch_has_more_rows_than_are_read_at_once(scale):
    experiment = scale()
    for batch in experiment.batches():
        assert (batch.end - batch.first) * batch.run.pool <= experiment.rows


def test_the_full_experiment_is_as_large_as_promised():
    experiment = full()
    for name in ("base", "EFT β=1", "BoN-16", "CBS 4,4,5"):
        method = next(one for one in experiment.methods if one.name == name)
        run = experiment.run(method.run)
        assert run.openings >= 200
        assert len(run.seeds) == 3
    assert NEW_TOKENS == 48


def test_plans_are_the_papers():
    for run in full().runs:
        plan = run.plan(2)
        assert (plan.temperature, plan.top_k, plan.seed) == (0.7, 50, 2)
    assert full().run("EFT β=1").beta == 1.0


def test_best_of_n_reads_no_more_texts_than_its_pool_has():
    for experiment in (full(), quick()):
        for method in experiment.methods:
            run = experiment.run(method.run)
            assert (method.best_of or 1) <= run.pool


def test_the_full_experiment_passes_over_the_openings_that_were_looked_at():
    assert full().skip >= quick().skip + quick().openings


def test_methods_that_are_compared_progress_together():
    """At any time a slow machine has slowed all of them: no run is far ahead of another."""
    experiment = full()
    main = {"pool of 16", "CBS 4,4,5"}
    done = Counter()
    for batch in experiment.batches():
        done[batch.run.name] += batch.end - batch.first
        counts = [done[name] for name in main]
        assert max(counts) - min(counts) <= experiment.rows // 16
