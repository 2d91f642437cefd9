"""From the command line's options to a `SearchPlan`, and to what the pair is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
_FILTERS: dict[str, Any] = {"top_k": 50, "top_p": 1.0, "min_p": 0.0}
_OPEN: dict[Method, dict[str, Any]] = {
    Method.cbs: {"width": 4, "samples": 4, "chunk": 5, "temperature": 0.7, **_FILTERS},
    Method.bon: {"samples": 16, "temperature": 0.7, **_FILTERS},
    Method.sample: {"temperature": 0.7, **_FILTERS},
    Method.greedy: {**_FILTERS},
}
_FIXED: dict[Method, dict[str, Any]] = {
    Method.cbs: {},
    Method.bon: {"width": 1, "chunk": None},
    Method.sample: {"width": 1, "samples": 1, "chunk": None},
    Method.greedy: {"width": 1, "samples": 1, "chunk": None, "temperature": 0.0},
}


def build_plan(method: Method, given: Mapping[str, Any], **others: Any) -> SearchPlan:
    """The plan of `method`; `given` has the settings that depend on it, None where not given.

    Raises:
        BadInput: a setting the method has no use for, or one outside its range.
    """
    if "" in others.get("stop", ()):
        raise BadInput("--stop is an empty string; it must have one character at least")
    settings = {**_OPEN[method], **_FIXED[method], **others}
    for name, value in given.items():
        if value is None:
            continue
        if name not in _OPEN[method]:
            raise BadInput(
                f"{option(name)} has no meaning with --method {method.value}; leave it out"
            )
        settings[name] = value
    try:
        return SearchPlan(**settings)
    except PlanError as error:
        allowed = error.allowed.removesuffix(", or None")
        raise BadInput(f"{option(error.field)} is {error.value}; it must be {allowed}") from error


@dataclass(frozen=True)
class Roles:
    """What the pair does: it guides each token, it ranks responses, or it is not loaded at all."""

    guides: bool
    ranks: bool

    @property
    def needs_pair(self) -> bool:
        return self.guides or self.ranks


def roles(method: Method, plan: SearchPlan, pair_given: bool) -> Roles:
    """What `method` asks of the pair.

    One response a prompt needs no ranking; a pair that is given by name then only scores it.
    """
    if method in (Method.sample, Method.greedy):
        return Roles(guides=False, ranks=pair_given)
    return Roles(guides=False, ranks=True)


def option(field: str) -> str:
    """The command line's name of a plan's field."""
    return "--" + field.replace("_", "-")
