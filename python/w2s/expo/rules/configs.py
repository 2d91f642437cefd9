"""Config rules: do both checkpoints say that they are one architecture, of one size?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2s.preflight.finding import Finding, error, warning

# What a size goes by in the families of transformers; every name but the first is an alias.
_SIZES = (
    ("hidden_size", "n_embd", "d_model"), ("num_hidden_layers", "n_layer", "num_layers"),
    ("num_attention_heads", "n_head", "num_heads"), ("num_key_value_heads",),
    ("head_dim",), ("intermediate_size", "n_inner", "ffn_dim"),
    ("num_local_experts", "num_experts", "n_routed_experts"),
)  # fmt: skip
# What changes the outputs of the same weights.
_SETTINGS = (
    "hidden_act", "activation_function", "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps",
    "sliding_window", "max_position_embeddings", "partial_rotary_factor", "attention_bias",
    "final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "num_experts_per_tok",
)  # fmt: skip
_LIMIT = 16 << 20  # bytes; a config.json has a few kilobytes


@dataclass(frozen=True)
class Config:
    """A folder's config.json. raw: as it stands there. text: of its language model. problem: why
    it cannot be read; "missing" when there is none."""

    raw: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def text(self) -> dict[str, Any]:
        inner = self.raw.get("text_config")
        return {**self.raw, **inner} if isinstance(inner, dict) else self.raw

    @property
    def tied(self) -> bool | None:
        """Whether embedding and head are one tensor; None when the config does not say."""
        for found in (self.raw.get("tie_word_embeddings"), self.text.get("tie_word_embeddings")):
            if isinstance(found, bool):
                return found
        return None

    @property
    def vocab_size(self) -> int | None:
        found = self.text.get("vocab_size")
        return found if type(found) is int else None


def read_config(folder: Path) -> Config:
    path = folder / "config.json"
    try:
        if not path.exists() and not path.is_symlink():
            return Config(problem="missing")
        with path.open("rb") as file:
            raw = json.loads(file.read(_LIMIT))
    except (OSError, ValueError, RecursionError) as reason:
        return Config(problem=f"{type(reason).__name__}: {reason}")
    if not isinstance(raw, dict):
        return Config(problem=f"it holds a {type(raw).__name__}, no object")
    return Config(raw)


def config_findings(base: Config, aligned: Config, who: tuple[str, str]) -> Iterator[Finding]:
    """Whether the configs can be read, and what they say differently."""
    yield from _unread(base, aligned, who)
    if base.problem or aligned.problem:
        return
    kinds = [one.text.get("model_type") for one in (base, aligned)]
    if None not in kinds and kinds[0] != kinds[1]:
        yield _architecture(who, f"model_type {kinds[0]} against {kinds[1]}")
        return
    sizes = [
        f"{names[0]} {mine} against {theirs}"
        for names in _SIZES
        if (mine := _first(base, names)) is not None
        and (theirs := _first(aligned, names)) is not None
        and mine != theirs
    ]
    if sizes:
        yield _architecture(who, ", ".join(sizes))
    settings = [*_settings(base, aligned)]
    if settings:
        yield warning(
            "settings-differ",
            f"{who[0]} and {who[1]} are set differently: {', '.join(settings)}",
            "see that the one was trained from the other; the result has the aligned model's "
            "settings",
        )
    classes = [one.raw.get("architectures") for one in (base, aligned)]
    if None not in classes and classes[0] != classes[1]:
        yield warning(
            "model-class",
            f"{who[0]} is a {_listed(classes[0])}, {who[1]} a {_listed(classes[1])}",
            "nothing if only their heads differ; the result is of the aligned model's class",
        )


def _unread(base: Config, aligned: Config, who: tuple[str, str]) -> Iterator[Finding]:
    if aligned.problem == "missing":
        yield warning(
            "config",
            f"{who[1]} has no config.json, so the result will not load in transformers, and "
            "whether both models are one architecture was not looked at",
            "copy its config.json and tokenizer into the folder",
        )
    elif aligned.problem:  # the result's own config is made from it
        yield error(
            "config",
            f"config.json of {who[1]} cannot be read ({aligned.problem:.200})",
            "download or copy the file again",
        )
    if base.problem:
        why = "" if base.problem == "missing" else f" that can be read ({base.problem:.200})"
        yield warning(
            "config",
            f"{who[0]} has no config.json{why}, so whether both models are one architecture was "
            "not looked at",
            "copy or download the file into its folder",
        )


def _architecture(who: tuple[str, str], apart: str) -> Finding:
    return error(
        "architecture",
        f"{who[0]} and {who[1]} are not one architecture: {apart}",
        "give the checkpoint that the aligned model was trained from as the base",
    )


def _first(config: Config, names: tuple[str, ...]) -> Any:
    return next((config.text[name] for name in names if config.text.get(name) is not None), None)


def _settings(base: Config, aligned: Config) -> Iterator[str]:
    """Settings that both state, and state differently; what only one states may be a default."""
    for name in _SETTINGS:
        mine, theirs = base.text.get(name), aligned.text.get(name)
        if mine is not None and theirs is not None and mine != theirs:
            yield f"{name} {mine} against {theirs}"
    ropes = [_rope(config.text) for config in (base, aligned)]
    for name in sorted(ropes[0].keys() & ropes[1].keys()):
        if ropes[0][name] != ropes[1][name]:
            yield f"{name} {ropes[0][name]} against {ropes[1][name]}"
    if base.tied is not None and aligned.tied is not None and base.tied != aligned.tied:
        yield f"tie_word_embeddings {base.tied} against {aligned.tied}"


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings by one name each, however old the config: theta, and how it is scaled."""
    new, old = text.get("rope_parameters"), text.get("rope_scaling")
    stated = new if isinstance(new, dict) else {}
    found: dict[str, Any] = {}
    theta = stated.get("rope_theta", text.get("rope_theta"))
    if theta is not None:
        found["rope_theta"] = theta
    if "rope_parameters" in text or "rope_scaling" in text:
        scaling = stated or (old if isinstance(old, dict) else {})
        rest = {key: value for key, value in scaling.items() if key not in ("rope_theta", "type")}
        rest.setdefault("rope_type", scaling.get("type", "default"))
        found["rope scaling"] = dict(sorted(rest.items()))
    return found


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names)
