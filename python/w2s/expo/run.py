"""`extrapolate_checkpoint`: from a recipe to a finished folder; what `w2s expo` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from w2s.expo.card import side_files
from w2s.expo.layout import index_of, lay_out
from w2s.expo.recipe import Recipe
from w2s.expo.report import Report
from w2s.expo.staging import Staging, require_free
from w2s.expo.stream import Progress, stream
from w2s.expo.survey import Survey, check_recipe
from w2s_kernels import __version__


def extrapolate_checkpoint(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    force_space: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Writes θ₁ + α(θ₁ − θ₀) as a checkpoint, in memory that does not grow with it.

    The result is made in `OUT.partial` and gets its name when the disk has all of it. Ctrl-C and
    even kill −9 leave only `OUT.partial`; an error removes it, but under `resume` the finished
    shards stay.

    out: a folder that is not there yet, or is empty. resume: go on with the finished shards of an
      interrupted run; its result is the same to the byte. force_space: begin although the disk
      seems too small. on_progress: called with (bytes done, bytes in all), of reading and writing,
      at least five times a second; the first call counts what an interrupted run had done.

    Raises:
        ExpoError: the survey finds an error; `out` is taken; the interrupted run had another recipe
            or other inputs; a file cannot be read or written. One sentence that names it.
        KeyboardInterrupt: within about a second of Ctrl-C, with both threads ended.
    """
    require_free(out, resume=resume)
    if recipe.adapter is not None:
        from w2s.expo.adapter_run import extrapolate_adapter

        return extrapolate_adapter(
            recipe, out, resume=resume, force_space=force_space, on_progress=on_progress
        )
    survey = check_recipe(recipe, out, resume=resume, force_space=force_space)
    survey.require()
    return carry_out(survey, out, resume=resume, on_progress=on_progress)


def carry_out(
    survey: Survey,
    out: str | Path,
    *,
    beside: Callable[[Report], Mapping[str, bytes]] | None = None,
    resume: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Does the tasks of a survey that found no error; see `extrapolate_checkpoint`.

    beside: the files that go with the weights, name to content, made when all sums are known; None
    for those of a whole checkpoint. The index is added to them.
    """
    recipe, base, aligned = survey.recipe, survey.base, survey.aligned
    plan = {
        "version": __version__,
        "recipe": asdict(recipe),
        "base": None if base is None else base.identity(),
        "aligned": None if aligned is None else aligned.identity(),
    }
    layouts = lay_out(survey.shards, like_aligned=recipe.shard_size is None)
    beside = beside or _files_of_a_checkpoint
    beside(Report(survey, []))  # a file that cannot be read shows before the work, not after it
    with Staging(out, plan, resume=resume) as staging:
        stream(
            layouts, staging, rounding=recipe.rounding, seed=recipe.seed, on_progress=on_progress
        )
        seen = [one for layout in layouts for one in staging.finished[layout.name]]
        report = Report(survey, [one for one in seen if one.elements or one.overflowed])
        staging.complete({**beside(report), **index_of(layouts)})
    return report


def _files_of_a_checkpoint(report: Report) -> Mapping[str, bytes]:
    survey = report.survey
    if survey.base is None or survey.aligned is None:
        raise ValueError("a survey without both checkpoints needs `beside`")
    return side_files(survey.recipe, survey, report, survey.base.folder, survey.aligned.folder)
