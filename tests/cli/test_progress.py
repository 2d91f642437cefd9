"""The bar of a search."""

from w2s.cli.progress import search_progress


def test_the_bar_of_a_resumed_run_starts_at_the_rows_that_are_done():
    with search_progress(10, 5, done=4) as progress:
        task = progress.progress.tasks[0]
        assert (task.total, task.completed, task.fields["done"]) == (50, 20, 4)
        progress.finish_batch(2)
        assert (task.completed, task.fields["done"]) == (30, 6)
        assert progress.tokens == 0
