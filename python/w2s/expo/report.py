"""`Report`: what an extrapolation did to each layer, and what to do where it went wrong."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from w2s.expo.checkpoint import Checkpoint
from w2s.expo.recipe import Recipe
from w2s.expo.rules.pairing import is_embedding, is_head
from w2s.expo.survey import Survey
from w2s.expo.tasks import TensorSums
from w2s.preflight.finding import Finding

FILE_NAME = "expo_report.json"
FORMAT = 1  # of that file

DTYPE_NAMES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
COLUMNS = ("layer", "tensors", "‖Δ‖/‖θ₁‖", "α", "effective α", "overflowed")

_BLOCK = re.compile(r"(?:^|\.)(layers|h|blocks|block|layer)\.(\d+)\.")
_NORM = re.compile(r"(^|[._])(norm|ln_f|layernorm|layer_norm)([._]|$)")
# Relative loss of α that is worth a sentence: of the whole model, and of one layer.
_LOST, _LOST_IN_LAYER = 0.01, 0.05
# ‖Δ‖/‖θ₁‖ of models that were never one: two of like size without relation have √2.
_FAR = 0.5
_NAMED = 3


def layer_of(name: str) -> str:
    """The part of a model that a tensor of this name belongs to."""
    block = _BLOCK.search(name)
    if block:
        return f"layer {block[2]}"
    if is_embedding(name):
        return "embedding"
    if is_head(name):
        return "head"
    return "norms" if _NORM.search(name) else "other"


@dataclass(frozen=True)
class Layer:
    """Sums over tensors that were extrapolated, as in `TensorSums`.

    alpha: the one that was asked for, and that exact arithmetic would leave: of tensors with
    several, the mean weighted by their Σ(θ₁ − θ₀)². NaN where that is 0.
    """

    name: str
    tensors: int
    elements: int
    theta1: float
    delta: float
    along: float
    alpha: float
    overflowed: int

    @classmethod
    def of(cls, name: str, sums: Sequence[TensorSums]) -> Layer:
        """The tensors of one layer; sums in float64, in the order given."""

        def total(value: Callable[[TensorSums], float]) -> float:
            return math.fsum(map(value, sums))

        delta = total(lambda one: one.delta)
        alphas = {one.alpha for one in sums}
        if not delta:
            alpha = math.nan
        elif len(alphas) == 1:
            alpha = alphas.pop()
        else:
            alpha = total(lambda one: one.alpha * one.delta) / delta
        return cls(
            name,
            len(sums),
            sum(one.elements for one in sums),
            total(lambda one: one.theta1),
            delta,
            total(lambda one: one.along),
            alpha,
            sum(one.overflowed for one in sums),
        )

    @property
    def distance(self) -> float:
        """‖Δ‖ / ‖θ₁‖ with Δ = θ₁ − θ₀; NaN where θ₁ is 0."""
        return math.sqrt(self.delta / self.theta1) if self.theta1 else math.nan

    @property
    def effective_alpha(self) -> float:
        """⟨out − θ₁, Δ⟩ / ⟨Δ, Δ⟩, the α that is left after rounding; NaN where Δ is 0."""
        return self.along / self.delta if self.delta else math.nan

    @property
    def lost(self) -> float:
        """How far the effective α is from the one asked for, relative to it; 0 where Δ is 0."""
        if not self.delta or not self.alpha:
            return 0.0
        return abs(self.effective_alpha / self.alpha - 1)


@dataclass(frozen=True)
class Report:
    """What came out of the tasks of a survey.

    sums: of each tensor that was extrapolated, in any order (kept in θ₁'s).
    """

    survey: Survey
    sums: Sequence[TensorSums]

    @property
    def recipe(self) -> Recipe:
        return self.survey.recipe

    @cached_property
    def ordered(self) -> list[TensorSums]:
        """The sums in the order of θ₁'s tensors."""
        by_name = {one.name: one for one in self.sums}
        names = (task.aligned.name for task in self.survey.tasks)
        return [by_name[name] for name in names if name in by_name]

    @cached_property
    def layers(self) -> list[Layer]:
        """In the order in which θ₁ has them, numbered ones by their number."""
        grouped: dict[str, list[TensorSums]] = {}
        for one in self.ordered:
            grouped.setdefault(layer_of(one.name), []).append(one)
        return [Layer.of(name, grouped[name]) for name in sorted(grouped, key=_place)]

    @cached_property
    def whole(self) -> Layer:
        """All of the model that was extrapolated."""
        return Layer.of("whole model", self.ordered)

    @property
    def effective_alpha(self) -> float:
        return self.whole.effective_alpha

    @cached_property
    def written_code(self) -> str | None:
        """The dtype code that most of the extrapolated elements were rounded to."""
        codes: Counter[str] = Counter()
        for task in self.survey.tasks:
            if task.base is not None:
                codes[task.out_code] += math.prod(task.aligned.shape)
        return codes.most_common(1)[0][0] if codes else None

    def table(self) -> list[tuple[str, ...]]:
        """A row of text for each layer and one for the whole, in the order of `COLUMNS`."""
        return [_row(layer) for layer in [*self.layers, self.whole]] if self.sums else []

    def advice(self) -> list[str]:
        """What went wrong and what to do, a sentence each; empty when all went well."""
        return [*self._overflow(), *self._distance(), *self._rounding()]

    def _overflow(self) -> Iterable[str]:
        found = [one for one in self.ordered if one.overflowed]
        if found:
            count = sum(one.overflowed for one in found)
            dtype = DTYPE_NAMES.get(self.written_code or "", "the dtype written")
            wider = "float32" if dtype == "bfloat16" else "bfloat16 or float32"
            yield (
                f"{count} elements left the range of {dtype} and became inf, in "
                f"{_some([one.name for one in found])}: write {wider}, or lower α"
            )

    def _distance(self) -> Iterable[str]:
        if not self.ordered:
            return
        if not self.whole.delta:
            yield (
                "the two models hold the same values, so the result is the aligned model: name the "
                "checkpoint before and the one after preference training"
            )
            return
        frozen = [layer.name for layer in self.layers if not layer.delta]
        if frozen:
            yield (
                f"{_some(frozen)} did not change in training and are as in the aligned model: "
                "nothing if they were frozen"
            )
        if self.whole.distance > _FAR:
            yield (
                f"the two models are far apart (‖Δ‖/‖θ₁‖ is {self.whole.distance:.2g}), so the one "
                "was hardly trained from the other: see that the base is the right one"
            )

    def _rounding(self) -> Iterable[str]:
        if self.whole.lost > _LOST:
            dtype = DTYPE_NAMES.get(self.written_code or "", "the dtype written")
            yield (
                f"rounding to {dtype} left an effective α of {self.whole.effective_alpha:.3g} of "
                f"{self.whole.alpha:.3g}: {self._remedy()}"
            )
            return
        poor = [layer for layer in self.layers if layer.lost > _LOST_IN_LAYER]
        # A small layer's α is off by chance under stochastic rounding, and right in the mean.
        if poor and self.recipe.rounding == "nearest":
            poor.sort(key=lambda layer: -layer.lost)
            worst = poor[0]
            yield (
                f"rounding changed α in {_some([layer.name for layer in poor])} (in {worst.name} "
                f"{worst.effective_alpha:.3g} is left of {worst.alpha:.3g}): {self._remedy()}"
            )

    def _remedy(self) -> str:
        wider = "float64" if self.written_code == "F32" else "float32"
        if self.recipe.rounding == "stochastic" or self.written_code == "F32":
            return f"--dtype {wider} keeps it"
        return f"--rounding stochastic keeps it in the mean, --dtype {wider} exactly"

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values: the same for the same inputs, on any machine.

        NaN and infinity are None. Names of folders are as the user gave them; of the machine, of
        time and of the place of the result there is nothing.
        """
        survey = self.survey
        codes = Counter(task.out_code for task in survey.tasks)
        return {
            "format": FORMAT,
            "method": "expo",
            "recipe": _json_recipe(self.recipe),
            "inputs": {"base": _files(survey.base), "aligned": _files(survey.aligned)},
            "result": {
                "bytes": survey.bytes_written,
                "files": len(survey.shards),
                "dtypes": dict(sorted(codes.items())),
            },
            "whole": _json_layer(self.whole),
            "layers": [_json_layer(layer) for layer in self.layers],
            "tensors": [_json_tensor(one) for one in self.ordered],
            "copied": [
                {"name": task.aligned.name, "why": task.why, "from_row": task.rows}
                for task in survey.tasks
                if task.why
            ],
            "findings": [asdict(one) for one in survey.findings if _of_models(one)],
            "advice": self.advice(),
        }


def _place(name: str) -> tuple[int, int]:
    """Where a layer stands in the table: embedding, numbered layers, norms, head, other."""
    kind, _, number = name.partition(" ")
    order = ("embedding", "layer", "norms", "head", "other")
    return order.index(kind), int(number or 0)


def _row(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name,
        str(layer.tensors),
        _number(layer.distance, ".2e"),
        _number(layer.alpha, ".4g"),
        _number(layer.effective_alpha, ".4g"),
        str(layer.overflowed),
    )


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _of_models(finding: Finding) -> bool:
    """Whether a finding is about the models, not about the disk that the result went to."""
    return finding.code != "space" and not finding.code.startswith("out-")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json_recipe(recipe: Recipe) -> dict[str, Any]:
    fields = asdict(recipe)
    fields["alpha_for"] = [list(pair) for pair in recipe.alpha_for]
    fields["skip"] = list(recipe.skip)
    return fields


def _files(checkpoint: Checkpoint | None) -> dict[str, dict[str, int | str]]:
    """Size and digest of the header of each weight file."""
    files = [] if checkpoint is None else checkpoint.files
    return {one.path.name: {"size": one.size, "header": one.digest} for one in files}


def _json_layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "tensors": layer.tensors,
        "elements": layer.elements,
        "distance": _finite(layer.distance),
        "alpha": _finite(layer.alpha),
        "effective_alpha": _finite(layer.effective_alpha),
        "overflowed": layer.overflowed,
    }


def _json_tensor(one: TensorSums) -> dict[str, Any]:
    return {
        **{key: _finite(value) if key != "name" else value for key, value in asdict(one).items()},
        "effective_alpha": _finite(one.effective_alpha),
    }
