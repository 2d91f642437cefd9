"""θ₁ as a LoRA adapter over θ₀: which weight each part of it belongs to, and what becomes of it.

Two results are possible. A scaled adapter, whose factors are the given ones byte for byte and whose
`lora_alpha` is (1 + α) times the given one: exact, as W₀ + (1 + α)·s·BA is what it then makes. Or a
merged checkpoint, in which that sum is worked out in float64 and rounded once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from w2s.errors import ExpoError
from w2s.expo.adapted import AdaptedTensor, load
from w2s.expo.checkpoint import Checkpoint
from w2s.expo.lora import LoraAdapter
from w2s.expo.recipe import Recipe
from w2s.expo.rules.configs import Config, read_config
from w2s.expo.rules.pairing import is_embedding, is_head
from w2s.expo.tasks import FLOATING, StoredTensor, TensorTask

_STEP = 16 << 20  # bytes that are compared at once
# Models whose linear layers keep their weights as [in, out] (transformers' Conv1D).
_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")

# What the names of a model's tensors may begin with, and those of a save of its body do not.
_PREFIXES = ("model.", "transformer.", "gpt_neox.", "language_model.", "backbone.", "decoder.")


@dataclass(frozen=True)
class RenamedTensor:
    """A stored tensor under the name, and for the file, of the result's (a `StoredTensor`)."""

    stored: StoredTensor
    name: str
    shard: str

    @property
    def code(self) -> str:
        return self.stored.code

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fills `buffer` with the stored tensor's bytes from `begin` on."""
        self.stored.read_into(buffer, begin)


class _Base:
    """θ₀'s tensors by the names that the adapter has for them."""

    def __init__(self, base: Checkpoint) -> None:
        self.checkpoint = base
        self.config: Config = read_config(base.folder)
        self.embedding = next((name for name in base.tensors if is_embedding(name)), None)

    def find(self, name: str) -> StoredTensor | None:
        """By name; by its end where one side has a prefix that the other one lacks."""
        tensors = self.checkpoint.tensors
        if name in tensors:
            return tensors[name]
        rest = name
        while rest.startswith(_PREFIXES):
            rest = rest.partition(".")[2]
            if rest in tensors:
                return tensors[rest]
        longer = [other for other in tensors if other.endswith(f".{name}")]
        return tensors[longer[0]] if len(longer) == 1 else None

    def tied_head(self, name: str) -> bool:
        """Whether this is the output head, stored as nothing but the embedding."""
        return is_head(name) and name.endswith(".weight") and self.tied

    @property
    def tied(self) -> bool:
        heads = [name for name in self.checkpoint.tensors if is_head(name)]
        return not heads and self.embedding is not None and self.config.tied is not False

    def embeds(self, tensor: StoredTensor) -> bool:
        return tensor.name == self.embedding

    def transposed(self, adapter: LoraAdapter, tensor: StoredTensor, out: int, into: int) -> bool:
        """Whether a layer keeps [in, out]; where it is square, its family says so."""
        if out != into or len(tensor.shape) != 2:
            return tensor.shape == (into, out) and len(tensor.shape) == 2
        return adapter.transposed or self.config.text.get("model_type") in _CONV1D


def merged_view(base: Checkpoint, adapter: LoraAdapter) -> Checkpoint:
    """The checkpoint that θ₁ would be: θ₀'s names, order and files, with the adapter worked in.

    A tensor that the adapter leaves alone is θ₀'s own object.

    Raises:
        ExpoError: a part of the adapter has no weight in θ₀, one of another shape, or one that is
          tied to another.
    """
    names = _Base(base)
    tensors = dict(base.tensors)
    heads = [name for name in adapter.whole if names.tied_head(name)]
    for name, tensor in adapter.whole.items():
        if name in heads:
            if not _same_as_embedding(names, adapter, tensor):
                raise _tied(names, adapter, f"replaces {name}")
            continue
        mine = _found(names, adapter, name, "replaces")
        if names.tied and names.embeds(mine) and not heads:
            raise _tied(names, adapter, f"replaces {name}")
        _require_rows(mine, tensor, adapter)
        tensors[mine.name] = RenamedTensor(tensor, mine.name, mine.shard)
    for name, factors in adapter.factors.items():
        if names.tied_head(name):
            raise _tied(names, adapter, f"adapts {name}")
        mine = _found(names, adapter, name, "adapts")
        if names.tied and names.embeds(mine):
            raise _tied(names, adapter, f"adapts {name}")
        if mine.code not in FLOATING:
            raise ExpoError(
                f"{mine.name} of {base.who} is {mine.code}, no floating-point weight; give the "
                "unquantized base"
            )
        flipped = names.transposed(adapter, mine, factors.b.shape[0], factors.a.shape[1])
        tensors[mine.name] = AdaptedTensor(tensors[mine.name], factors, flipped)
    return Checkpoint(
        adapter.folder, adapter.weights.who, tensors, base.shards, adapter.weights.files,
        base.metadata, base.tied,
    )  # fmt: skip


def _same_as_embedding(names: _Base, adapter: LoraAdapter, head: StoredTensor) -> bool:
    """Whether an adapter's head is its embedding once more, as it is when the vocabulary grew."""
    for name, tensor in adapter.whole.items():
        mine = names.find(name)
        if mine is not None and names.embeds(mine):
            same_form = (tensor.shape, tensor.code) == (head.shape, head.code)
            return same_form and all(
                torch.equal(load(tensor, begin, length), load(head, begin, length))
                for begin in range(0, head.nbytes, _STEP)
                if (length := min(_STEP, head.nbytes - begin))
            )
    return False


def _found(names: _Base, adapter: LoraAdapter, name: str, does: str) -> StoredTensor:
    found = names.find(name)
    if found is None:
        raise ExpoError(
            f"{adapter.weights.who} {does} {name}, which {names.checkpoint.who} does not have; "
            "give the base that the adapter was trained on"
        )
    return found


def _tied(names: _Base, adapter: LoraAdapter, does: str) -> ExpoError:
    return ExpoError(
        f"{adapter.weights.who} {does}, and {names.checkpoint.who} ties head and embedding, so "
        "that a merged checkpoint would change both; --lora adapter changes the one that is meant"
    )


def _require_rows(mine: StoredTensor, whole: StoredTensor, adapter: LoraAdapter) -> None:
    grown = mine.shape[1:] == whole.shape[1:] and (is_embedding(mine.name) or is_head(mine.name))
    if mine.shape != whole.shape and not grown:
        raise ExpoError(
            f"{whole.name} of {adapter.weights.who} is {list(whole.shape)}, and {mine.name} of the "
            f"base is {list(mine.shape)}; give the base that the adapter was trained on"
        )


def merged_tasks(recipe: Recipe, base: Checkpoint, view: Checkpoint) -> list[TensorTask]:
    """What makes a merged checkpoint of `merged_view(base, …)`, in θ₀'s order and dtypes."""
    return [
        _task(recipe, tensor, base.tensors[name], base.tensors[name].code, name)
        for name, tensor in view.tensors.items()
    ]


def adapter_tasks(
    recipe: Recipe, adapter: LoraAdapter, base: Checkpoint | None
) -> list[TensorTask]:
    """What makes the weights of a scaled adapter: factors are copied byte for byte, tensors that
    were trained whole are extrapolated from θ₀'s (`base`, which is not needed without any).

    Raises:
        ExpoError: a tensor that was trained whole has none in θ₀, or one of another shape.
    """
    whole = {tensor.name: name for name, tensor in adapter.whole.items()}
    names = None if base is None else _Base(base)
    tasks = []
    for key, tensor in adapter.weights.tensors.items():
        if key not in whole:
            tasks.append(TensorTask(tensor, None, 0.0, tensor.code, why="scaled by lora_alpha"))
            continue
        mine = None if names is None else names.find(whole[key])
        if mine is None and names is not None and names.tied_head(whole[key]):
            mine = names.checkpoint.tensors[names.embedding or ""]
        if mine is None:
            base_is = "the base" if base is None else base.who
            raise ExpoError(
                f"{adapter.weights.who} replaces {whole[key]}, which {base_is} does not have; give "
                "the base that the adapter was trained on"
            )
        _require_rows(mine, tensor, adapter)
        tasks.append(_task(recipe, tensor, mine, tensor.code, whole[key]))
    return tasks


def _task(
    recipe: Recipe, tensor: StoredTensor, base: StoredTensor, code: str, name: str
) -> TensorTask:
    """`name` is what patterns are searched in. A tensor that is θ₀'s own is copied."""
    if tensor.code not in FLOATING:
        return TensorTask(tensor, None, 0.0, code, why=f"{code} is not floating-point")
    code = recipe.dtype_code or code
    if tensor is base:
        return TensorTask(tensor, None, 0.0, code, why="not adapted")
    if recipe.skips(name):
        return TensorTask(tensor, None, 0.0, code, why="--skip")
    alpha = recipe.alpha_of(name)
    if alpha == 0:
        return TensorTask(tensor, None, 0.0, code, why="α is 0")
    if base.shape == tensor.shape:
        return TensorTask(tensor, base, alpha, code)
    rows = min(base.shape[0], tensor.shape[0])
    why = f"rows from {rows} on are new" if rows < tensor.shape[0] else ""
    return TensorTask(tensor, base, alpha, code, rows if why else None, why)


def scaled_config(recipe: Recipe, adapter: LoraAdapter) -> dict[str, Any]:
    """adapter_config.json with `lora_alpha`, and what `alpha_pattern` says, times 1 + α.

    Modules that have an α of their own (`alpha_for`, `skip`) get an entry of their own in
    `alpha_pattern`.
    """
    config = dict(adapter.config)
    scaled = {
        factors.module: _times(adapter.alpha_of(factors.module), _factor(recipe, name))
        for name, factors in adapter.factors.items()
    }
    config["lora_alpha"] = _times(adapter.config["lora_alpha"], 1 + Fraction(repr(recipe.alpha)))
    pattern = adapter.config.get("alpha_pattern") or {}
    common = 1 + Fraction(repr(recipe.alpha))
    if any(_factor(recipe, name) != common for name in adapter.factors):
        # A module's whole path, so that no pattern of the user can come first and mean another.
        pattern = {
            _literally(module): alpha
            for module, alpha in scaled.items()
            if alpha != config["lora_alpha"]
        }
    else:
        pattern = {key: _times(alpha, common) for key, alpha in pattern.items()}
    if pattern or "alpha_pattern" in config:
        config["alpha_pattern"] = pattern
    return config


def _factor(recipe: Recipe, name: str) -> Fraction:
    alpha = 0.0 if recipe.skips(name) else recipe.alpha_of(name)
    return 1 + Fraction(repr(alpha))


def _times(alpha: float, factor: Fraction) -> float:
    """The product as the number nearest to it; a whole one as an integer, as peft's own is."""
    product = Fraction(repr(alpha)) * factor
    return int(product) if product.denominator == 1 else float(product)


def _literally(module: str) -> str:
    return "^" + re.escape(module)
