"""mergekit's YAML, where it says an extrapolation: `task_arithmetic` or `linear` of two models.

Both methods give a sum of two checkpoints whose factors add up to 1. The one with the larger
factor is θ₁, its factor is 1 + α, and the other one is θ₀. So θ_b + w(θ_m − θ_b) with w = 1.3 has
θ₁ = θ_m and α = 0.3, and with w = −0.3 it has θ₁ = θ_b and α = 0.3. Meaning and defaults of the
keys are those of mergekit 0.1.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from w2s.expo.recipe import Recipe
from w2s.expo.yaml_file import Place, YamlFile, named

_METHODS = ("task_arithmetic", "linear")
_KEYS = (
    "merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "tokenizer_source",
)  # fmt: skip
_DTYPES = ("float32", "float16", "bfloat16", "float64")
# What the factors may miss 1 by: the rounding of decimals that a program wrote.
_SLACK = Fraction(1, 10**9)
_MODEL_NAME = re.compile(r"(?P<name>[^@]+)(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class _Source:
    """A model of the file: a folder or hub id, at a revision."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


@dataclass(frozen=True)
class _Entry:
    """One of `models`, and the weight that stands with it."""

    source: _Source
    weight: Fraction | None
    place: Place


def recipe_of_yaml(path: Path) -> Recipe:
    """The recipe that a mergekit configuration of two models says.

    `out_dtype`, else `dtype`, is the dtype of the result; the arithmetic is float64 whatever
    `dtype` is (mergekit computes in `dtype`). Folders are relative to the working directory.

    Raises:
        ExpoError: names the file, the line and the key that cannot be read, is not taken, or says
          no extrapolation.
    """
    file = YamlFile(path)
    config = _mapping(file, (), file.value)
    method = config.get("merge_method")
    if "merge_method" not in config:
        raise file.error((), f"has no merge_method; it must be {' or '.join(_METHODS)}")
    if method not in _METHODS:
        raise file.error(("merge_method",), f"is {method!r}; it must be {' or '.join(_METHODS)}")
    _only(file, (), config, _KEYS)
    shared = _mapping(file, ("parameters",), config.get("parameters"))
    taken = ("weight", "normalize") + (("lambda",) if method == "task_arithmetic" else ())
    _only(file, ("parameters",), shared, taken)
    base = None
    if config.get("base_model") is not None:
        base = _source(file, ("base_model",), config["base_model"])
    entries = _entries(file, config.get("models"), shared.get("weight"))
    factors = (
        _task_arithmetic(file, base, entries, shared)
        if method == "task_arithmetic"
        else _linear(file, base, entries, shared)
    )
    (aligned, factor), (other, _) = sorted(factors, key=lambda pair: pair[1], reverse=True)
    _check_tokenizer(file, config.get("tokenizer_source"), base, aligned)
    return Recipe(
        base=other.name,
        aligned=aligned.name,
        alpha=float(factor - 1),
        dtype=_dtype(file, config),
        base_revision=other.revision,
        aligned_revision=aligned.revision,
    )


_Factors = list[tuple[_Source, Fraction]]


def _task_arithmetic(
    file: YamlFile, base: _Source | None, entries: list[_Entry], shared: dict[str, object]
) -> _Factors:
    """θ_b + λ·w(θ_m − θ_b); normalize divides w by itself. A weight of the base has no meaning."""
    if base is None:
        raise file.error((), "has no base_model, which task_arithmetic needs")
    others = [entry for entry in entries if entry.source != base]
    if len(others) != 1:
        raise file.error(
            ("models",), f"has {len(others)} models besides the base_model {base}; it must be one"
        )
    weight = others[0].weight
    if weight is None:
        raise file.error(others[0].place, f"({others[0].source}) has no parameters.weight")
    if _boolean(file, shared, "normalize", False) and abs(weight) >= Fraction(1, 10**8):
        weight = Fraction(1)
    if "lambda" in shared:
        weight *= _number(file, ("parameters", "lambda"), shared["lambda"])
    return [(others[0].source, weight), (base, 1 - weight)]


def _linear(
    file: YamlFile, base: _Source | None, entries: list[_Entry], shared: dict[str, object]
) -> _Factors:
    """The sum of weight times model; normalize, which is on by default, divides by their sum."""
    listed = [entry.source for entry in entries]
    if len(entries) != 2:
        raise file.error(("models",), f"has {len(entries)} models; for linear it must be two")
    if base is not None and base not in listed:
        raise file.error(("base_model",), f"is {base}, a third model besides the two of models")
    weights = []
    for entry in entries:
        if entry.weight is None:
            raise file.error(entry.place, f"({entry.source}) has no parameters.weight")
        weights.append(entry.weight)
    total = sum(weights, Fraction(0))
    written = " + ".join(f"{float(weight):g}" for weight in weights)
    if _boolean(file, shared, "normalize", True):
        if total == 0:
            raise file.error(("models",), f"have weights {written} = 0, which normalize divides by")
        weights = [weight / total for weight in weights]
    elif abs(total - 1) > _SLACK:
        raise file.error(
            ("models",),
            f"have weights {written} = {float(total):g}; an extrapolation has 1 + alpha and -alpha,"
            " which add up to 1",
        )
    return list(zip(listed, weights, strict=True))


def _entries(file: YamlFile, value: object, default: object) -> list[_Entry]:
    """`models`; `default` is the weight of those that have none of their own."""
    if value is None:
        raise file.error((), "has no models")
    if not isinstance(value, list):
        raise file.error(("models",), "is no list")
    shared = None if default is None else _number(file, ("parameters", "weight"), default)
    found: list[_Entry] = []
    for number, item in enumerate(value):
        place: Place = ("models", number)
        entry = _mapping(file, place, item)
        _only(file, place, entry, ("model", "parameters"))
        if entry.get("model") is None:
            raise file.error(place, "has no model")
        source = _source(file, (*place, "model"), entry["model"])
        if any(source == earlier.source for earlier in found):
            raise file.error((*place, "model"), f"{source} is there twice")
        own = _mapping(file, (*place, "parameters"), entry.get("parameters"))
        _only(file, (*place, "parameters"), own, ("weight",))
        weight = shared
        if own.get("weight") is not None:
            weight = _number(file, (*place, "parameters", "weight"), own["weight"])
        found.append(_Entry(source, weight, place))
    return found


def _source(file: YamlFile, place: Place, value: object) -> _Source:
    """A model as mergekit writes it, "name" or "name@revision", or as its mappings."""
    if isinstance(value, dict):
        if "model" in value:
            _only(file, place, value, ("model",))
            return _source(file, (*place, "model"), value["model"])
        _only(file, place, value, ("path", "revision"))
        path, revision = value.get("path"), value.get("revision")
        if not isinstance(path, str) or not path or not isinstance(revision, str | None):
            raise file.error(place, "must have a path, and may have a revision, which are texts")
        return _Source(path, revision)
    if not isinstance(value, str) or not value:
        raise file.error(place, f"is {value!r}; it must be a folder or a hub id")
    if Path(value).is_dir():  # whatever its name looks like
        return _Source(value)
    if "+" in value:
        base, _, adapter = value.partition("+")
        raise file.error(
            place,
            f"is {value}, a model with a LoRA adapter, which is not taken here; say it on the "
            f"command line: --base {base} --aligned {adapter} --lora merged",
        )
    parts = _MODEL_NAME.fullmatch(value)
    if parts is None:
        raise file.error(place, f"is {value!r}; it must be a name, or name@revision")
    return _Source(parts["name"], parts["revision"])


def _check_tokenizer(file: YamlFile, value: object, base: _Source | None, aligned: _Source) -> None:
    """The result has θ₁'s tokenizer, so a key that wants another one is refused."""
    if value is None:
        return
    place = ("tokenizer_source",)
    wanted = base if value == "base" else None
    if value not in ("base", "union"):
        wanted = _source(file, place, value)
    if wanted != aligned:
        raise file.error(
            place,
            f"is {value}; the result has the tokenizer of {aligned}, the model that is moved on: "
            "remove the key, or name that model",
        )


def _dtype(file: YamlFile, config: dict[str, object]) -> str | None:
    found = None
    for key in ("dtype", "out_dtype"):
        value = config.get(key)
        if value is None:
            continue
        found = str(value).removeprefix("torch.")
        if found not in _DTYPES:
            raise file.error((key,), f"is {value!r}; it must be one of {', '.join(_DTYPES)}")
    return found


def _only(file: YamlFile, place: Place, value: dict[str, object], taken: tuple[str, ...]) -> None:
    """Refuses a key that is not taken at this place, by name."""
    for key in value:
        if key not in taken:
            raise file.error(
                (*place, str(key)), f"is not taken; {_home(place)} may have {', '.join(taken)}"
            )


def _home(place: Place) -> str:
    return named(place) or "the file"


def _mapping(file: YamlFile, place: Place, value: object) -> dict[str, object]:
    if value is None and place:
        return {}
    if not isinstance(value, dict):
        raise file.error(place, "is no mapping of keys to values" if place else "holds no keys")
    return value


def _number(file: YamlFile, place: Place, value: object) -> Fraction:
    """The number as it is written, so that 1.3 − 1 is 0.3 and not 0.30000000000000004."""
    if isinstance(value, list | dict):
        raise file.error(
            place,
            "differs between layers or tensors (a gradient or filters), which is not taken; write "
            "one number, and use --alpha-for for tensors with another alpha",
        )
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        # A text too: YAML 1.1 reads 1e-1 as one. Not 1/3, which Fraction alone would take.
        return Fraction(repr(float(value)))
    except (ValueError, OverflowError):
        raise file.error(place, f"is {value!r}; it must be a finite number") from None


def _boolean(file: YamlFile, shared: dict[str, object], key: str, default: bool) -> bool:
    value = shared.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise file.error(("parameters", key), f"is {value!r}; it must be true or false")
    return value
