"""Recipe rules: an α that does nothing or much, patterns that match nothing, what rounding does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from w2s.expo.recipe import Recipe
from w2s.expo.tasks import FLOATING, TensorTask
from w2s.preflight.finding import Finding, error, note, warning

# Above it nothing was gained with fully trained models (arXiv 2404.16792, section 3).
_USUAL = 0.5
_LOW_PRECISION = ("BF16", "F16")


def recipe_findings(recipe: Recipe, tasks: Sequence[TensorTask]) -> Iterator[Finding]:
    yield from pattern_findings(recipe, [task.aligned.name for task in tasks])
    yield from _alphas(recipe, tasks)
    yield from _rounding(recipe, tasks)


def pattern_findings(recipe: Recipe, names: Sequence[str]) -> Iterator[Finding]:
    """A pattern that is found in no name is a typo, which nothing else would show."""
    given = [("alpha-for", pattern) for pattern, _ in recipe.alpha_for]
    given += [("skip", pattern) for pattern in recipe.skip]
    for option, pattern in given:
        found = _finder(pattern)
        if not any(found(name) for name in names):
            example = names[len(names) // 2] if names else "none"
            yield error(
                "pattern",
                f"--{option} {pattern!r} is found in no tensor's name",
                f"correct it; names look like {example}",
            )


def _finder(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).search


def _alphas(recipe: Recipe, tasks: Sequence[TensorTask]) -> Iterator[Finding]:
    counted = [task for task in tasks if task.aligned.code in FLOATING]
    used = [task.alpha for task in tasks if task.base is not None]
    if counted and not used:
        yield note(
            "alpha-zero",
            "no tensor is extrapolated, so the result is the aligned model"
            if recipe.alpha
            else "α is 0, so the result is the aligned model, bit for bit in its own dtype",
            "nothing if a copy is wanted; an α of 0.1 to 0.5 is usual",
        )
        return
    largest = max(used, default=0.0)
    if largest > _USUAL:
        yield note(
            "alpha-large",
            f"α is {largest:g}, and models whose preference training was complete do best with "
            "0.1 to 0.5",
            "nothing if the training was cut short (up to 25 then); else compare with smaller "
            "ones: w2s expo sweep",
        )
    if min(used, default=0.0) < 0:
        yield note(
            "alpha-negative",
            f"α is {min(used):g}, which goes from the aligned model back towards the base",
            "nothing if that is meant; −1 is the base",
        )


def _rounding(recipe: Recipe, tasks: Sequence[TensorTask]) -> Iterator[Finding]:
    changed = [task for task in tasks if task.base is not None]
    coarse = [task for task in changed if task.out_code in _LOW_PRECISION]
    small = [task for task in coarse if abs(task.alpha) < 1]
    if small and recipe.rounding == "nearest":
        yield warning(
            "rounding",
            f"{len(small)} tensors are rounded to the nearest {small[0].out_code}, which eats a "
            f"part of an α of {small[0].alpha:g} where the two models are close together",
            "add --rounding stochastic, which keeps α in the mean, or --dtype float32; the report "
            "gives the α that is left",
        )
    narrowed = [task for task in coarse if task.out_code == "F16" and task.aligned.code != "F16"]
    if narrowed:
        yield note(
            "float16-range",
            f"{len(narrowed)} tensors go from {narrowed[0].aligned.code} to float16, which ends "
            "at 65504",
            "nothing if none is that large, which the report says; bfloat16 has float32's range",
        )
