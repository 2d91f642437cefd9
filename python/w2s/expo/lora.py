"""`LoraAdapter`: what a LoRA adapter's folder says it adds to which weights (peft's format).

A LoRA adapter makes W₀ + s·BA of a weight W₀, so θ₁ − θ₀ is s·BA, exactly: extrapolated by α it is
W₀ + (1 + α)·s·BA. Whatever else an adapter may hold (weights that were trained whole) is a θ₁ of
its own; kinds of adapters that are not of this form are refused by name.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2s.errors import ExpoError
from w2s.expo.checkpoint import Checkpoint, open_checkpoint
from w2s.expo.shard_files import ShardFile, load_json
from w2s.expo.tasks import FLOATING, StoredTensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_WHO = "the adapter"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?")

# Set to anything true, these make something else of the weights than W₀ + s·BA.
_NOT_LINEAR = {
    "use_dora": "DoRA scales each row of the sum anew, which is not linear in BA",
    "lora_bias": "it has biases beside its B",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it adapts parameters that are no module's weight",
    "trainable_token_indices": "it replaces single rows of the embedding",
    "alora_invocation_tokens": "it works on a part of the tokens only",
    "use_qalora": "QA-LoRA pools the inputs of its A",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between several adapters",
    "monteclora_config": "its factors are drawn at random",
    "kasa_config": "KaSA has a diagonal between its factors",
    "velora_config": "VeLoRA compresses what goes into it",
}
# Ways to begin that subtract a first BA from the base weights.
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MERGE = "merge it into its base with peft (merge_and_unload) and give that as --aligned"


@dataclass(frozen=True)
class Factors:
    """The pair A, B of one adapted weight.

    module: its path in the model. rank_a, rank_b: tensors A [r, in, …] and B [out, r, …]; of an
    embedding [r, rows] and [columns, r]. scale: s, the factor of BA.
    """

    module: str
    a: StoredTensor
    b: StoredTensor
    scale: float
    embedding: bool

    @property
    def weight(self) -> str:
        """The name of the adapted weight in the model."""
        return f"{self.module}.weight"


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter on disk; nothing of its tensors is in memory.

    config: adapter_config.json as it is. weights: its file. factors: by the name of the adapted
    weight. whole: tensors that were trained as they are, and replace the base's; by the name in the
    model.
    """

    folder: Path
    config: dict[str, Any]
    weights: Checkpoint
    factors: dict[str, Factors] = field(default_factory=dict)
    whole: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def transposed(self) -> bool:
        """Whether the adapted layers keep their weights as [in, out], like those of GPT-2."""
        return bool(self.config.get("fan_in_fan_out"))

    def alpha_of(self, module: str) -> float:
        """lora_alpha of a module: the first match of `alpha_pattern`, else the common one."""
        return float(_looked_up(self.config, "alpha_pattern", "lora_alpha", module))

    def rank_of(self, module: str) -> int:
        """r of a module, found like `alpha_of`."""
        return int(_looked_up(self.config, "rank_pattern", "r", module))

    def scale_of(self, module: str) -> float:
        """s = lora_alpha / r, or / √r with rsLoRA."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter's configuration."""
    return (folder / CONFIG).is_file()


def open_adapter(folder: Path) -> LoraAdapter:
    """Opens a LoRA adapter by its configuration and the headers of its file.

    Raises:
        ExpoError: it is no adapter, of another kind than LoRA, or damaged; names what.
    """
    if not is_adapter(folder):
        raise ExpoError(f"{folder} is no adapter: there is no {CONFIG} in it; leave out --lora")
    config = load_json(folder / CONFIG, _WHO)
    if not isinstance(config, dict):
        raise ExpoError(f"{folder / CONFIG} holds no JSON object")
    _require_lora(folder, config)
    weights = open_checkpoint(folder, _WHO, weights=WEIGHTS, pickled=_PICKLED)
    weights.files.append(_config_file(folder))
    adapter = LoraAdapter(folder, config, weights)
    _sort_tensors(adapter)
    return adapter


def _config_file(folder: Path) -> ShardFile:
    """So that an interrupted run does not go on with another lora_alpha."""
    path = folder / CONFIG
    status, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    return ShardFile(path, _WHO, status.st_size, status.st_mtime_ns, digest)


def _require_lora(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ExpoError(f"{folder} is an adapter of the kind {kind}, no LoRA; {_MERGE}")
    for key, why in _NOT_LINEAR.items():
        if config.get(key):
            raise ExpoError(f"{folder} has {key} in its {CONFIG}: {why}; {_MERGE}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_MOVES_BASE):
        raise ExpoError(
            f"{folder} was begun with init_lora_weights={start!r}, which changes the base weights, "
            f"so BA is not the whole difference; convert it with peft to a plain LoRA, or {_MERGE}"
        )
    for field_name in ("lora_alpha", "r"):
        if not _positive(config.get(field_name), zero=field_name == "lora_alpha"):
            raise ExpoError(f"{folder / CONFIG} has {field_name}={config.get(field_name)!r}")
    for field_name in ("alpha_pattern", "rank_pattern"):
        pattern = config.get(field_name) or {}
        if not isinstance(pattern, dict) or not all(map(_positive, pattern.values())):
            raise ExpoError(f"{folder / CONFIG} has {field_name}={pattern!r}")


def _positive(value: object, zero: bool = True) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and (zero or value > 0)


def _looked_up(config: dict[str, Any], pattern: str, common: str, module: str) -> float:
    """As peft looks it up: a pattern is a regular expression for the end of a module's path."""
    for key, value in (config.get(pattern) or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return float(value)
        except re.error as error:
            raise ExpoError(
                f"{CONFIG} has {pattern} {key!r}, which is no pattern: {error}"
            ) from error
    return float(config[common])


def _sort_tensors(adapter: LoraAdapter) -> None:
    """Fills `factors` and `whole`."""
    sides: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    for key, tensor in adapter.weights.tensors.items():
        if tensor.code not in FLOATING:
            raise _odd(tensor, f"is of dtype {tensor.code}, which is no floating-point one")
        name = key.removeprefix(_PREFIX)
        factor = _FACTOR.fullmatch(name)
        if factor is not None:
            place = factor["module"].replace(".base_layer", ""), factor["embedding"] is not None
            sides.setdefault(place, {})[factor["side"]] = tensor
        elif "lora_" in name or "trainable_tokens" in name:
            raise _odd(tensor, "is no factor of a LoRA")
        else:
            adapter.whole[name.replace(".base_layer.", ".")] = tensor
    for (module, embedding), found in sides.items():
        if found.keys() != {"A", "B"}:
            raise _odd(next(iter(found.values())), "has no counterpart")
        rank = adapter.rank_of(module)
        a, b = found["A"], found["B"]
        if len(a.shape) < 2 or len(b.shape) < 2 or (a.shape[0], b.shape[1]) != (rank, rank):
            raise _odd(a, f"{list(a.shape)} and B {list(b.shape)} are not of rank {rank}")
        factors = Factors(module, a, b, adapter.scale_of(module), embedding)
        adapter.factors[factors.weight] = factors
    if not adapter.factors:
        raise ExpoError(f"{adapter.folder} holds no LoRA factors; save the adapter again with peft")


def _odd(tensor: StoredTensor, what: str) -> ExpoError:
    return ExpoError(f"{tensor.name} in {tensor.shard} of {_WHO} {what}; save it again with peft")
