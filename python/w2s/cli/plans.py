"""From the command line's options to a `SearchPlan`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from w2s.cli.errors import BadInput
from w2s.errors import PlanError
from w2s.plan import SearchPlan


class Method(StrEnum):
    """The settings of the one search loop that have a name."""

    cbs = "cbs"
    bon = "bon"
    sample = "sample"
    greedy = "greedy"


# What each method leaves open, with its default (arXiv 2405.19262, section 5: CBS 4, 4, 5; BoN 16).
_OPEN: dict[Method, dict[str, Any]] = {
    Method.cbs: {"width": 4, "samples": 4, "chunk": 5, "temperature": 0.7},
    Method.bon: {"samples": 16, "temperature": 0.7},
    Method.sample: {"temperature": 0.7},
    Method.greedy: {},
}
_FIXED: dict[Method, dict[str, Any]] = {
    Method.cbs: {},
    Method.bon: {"width": 1, "chunk": None},
    Method.sample: {"width": 1, "samples": 1, "chunk": None},
    Method.greedy: {"width": 1, "samples": 1, "chunk": None, "temperature": 0.0},
}


def build_plan(method: Method, given: dict[str, Any], **others: Any) -> SearchPlan:
    """The plan of `method`; `given` has width, samples, chunk, temperature: None where not given.

    Raises:
        BadInput: a setting the method has no use for, or one outside its range.
    """
    settings = {**_OPEN[method], **_FIXED[method], **others}
    for name, value in given.items():
        if value is None:
            continue
        if name in _FIXED[method]:
            raise BadInput(
                f"{_option(name)} has no meaning with --method {method.value}; leave it out"
            )
        settings[name] = value
    try:
        return SearchPlan(**settings)
    except PlanError as error:
        allowed = error.allowed.removesuffix(", or None")
        raise BadInput(f"{_option(error.field)} is {error.value}; it must be {allowed}") from error


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
