"""From the command line's options to a `SearchPlan`, and to what the pair is asked to do."""

from __future__ import annotations

import math
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
    eft = "eft"
    beam = "beam"
    sample = "sample"
    greedy = "greedy"


# What each method leaves open, with its default (arXiv 2405.19262, section 5: CBS 4, 4, 5; BoN 16).
_DRAWS: dict[str, Any] = {"temperature": 0.7, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
_OPEN: dict[Method, dict[str, Any]] = {
    Method.cbs: {"width": 4, "samples": 4, "chunk": 5, **_DRAWS},
    Method.bon: {"samples": 16, **_DRAWS},
    Method.eft: {"width": 1, "samples": 1, "chunk": None, **_DRAWS},
    Method.beam: {"width": 4},
    Method.sample: _DRAWS,
    Method.greedy: {},
}
_ONE = {"width": 1, "samples": 1, "chunk": None}
_FIXED: dict[Method, dict[str, Any]] = {
    Method.bon: {"width": 1, "chunk": None},
    Method.sample: _ONE,
    # As a beam of one, since the log-prob of an arg max at temperature 0 is 0.
    Method.greedy: {"width": 1},
}


def build_plan(method: Method, given: Mapping[str, Any], **others: Any) -> SearchPlan:
    """The plan of `method`; `given` has the settings that depend on it, None where not given.

    Raises:
        BadInput: a setting the method has no use for, or one outside its range.
    """
    if "" in others.get("stop", ()):
        raise BadInput("--stop is an empty string; it must have one character at least")
    settings = {**_OPEN[method], **_FIXED.get(method, {}), **others}
    for name, value in given.items():
        if value is None:
            continue
        if name not in _OPEN[method]:
            raise BadInput(
                f"{option(name)} has no meaning with --method {method.value}; leave it out"
            )
        settings[name] = value
    try:
        if method in (Method.beam, Method.greedy):
            return SearchPlan.beam(**settings)
        return SearchPlan(**settings)
    except PlanError as error:
        allowed = error.allowed.removesuffix(", or None")
        raise BadInput(f"{option(error.field)} is {error.value}; it must be {allowed}") from error


@dataclass(frozen=True)
class Roles:
    """What the pair does: it ranks responses, it guides each token (beta), or it is not loaded."""

    ranks: bool
    beta: float | None = None

    @property
    def needs_pair(self) -> bool:
        return self.ranks or self.beta is not None


def pair_roles(method: Method, plan: SearchPlan, beta: float | None, pair_given: bool) -> Roles:
    """What `method` asks of the pair.

    One response a prompt needs no ranking. A pair that is given with sample or greedy scores it.

    Raises:
        BadInput: a pair or a beta the method has no use for, or a beta that is not finite.
    """
    if beta is not None and method is not Method.eft:
        raise BadInput(f"--beta has no meaning with --method {method.value}; it is eft's")
    if beta is not None and not math.isfinite(beta):
        raise BadInput(f"--beta is {beta}; it must be a finite number")
    if pair_given and method is Method.beam:
        raise BadInput("--pair has no meaning with --method beam, which ranks by the large model")
    if method is Method.eft:
        return Roles(ranks=plan.pool > 1, beta=1.0 if beta is None else beta)
    return Roles(ranks=method in (Method.cbs, Method.bon) or pair_given)


def option(field: str) -> str:
    """The command line's name of a plan's field."""
    return "--" + field.replace("_", "-")
