"""File rules: checkpoints that cannot be extrapolated at all, told by their folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.expo.inputs import ADAPTER_CONFIG
from w2s.expo.recipe import Recipe
from w2s.expo.rules.configs import Config
from w2s.preflight.finding import Finding, error, note, warning

if TYPE_CHECKING:
    from w2s.expo.checkpoint import Checkpoint
    from w2s.expo.tasks import StoredTensor

_WHOLE = ("model.safetensors", "pytorch_model.bin")
# Files of older quantizers, which leave config.json alone.
_QUANTIZER_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
# How the tensors of a quantized weight end, and whose they are.
_QUANTIZED = (
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(SCB|absmax|quant_map|nested_absmax|quant_state\.\w+)$"), "bitsandbytes"),
    (re.compile(r"\.(weight_packed|weight_zero_point|weight_shape)$"), "compressed-tensors"),
    (re.compile(r"\.(weight_scale|weight_scale_inv|input_scale)$"), "FP8"),
)
_NARROW = re.compile(r"F8_|F6_|F4")


def folder_findings(
    recipe: Recipe, base: Path, aligned: Path, who: tuple[str, str]
) -> Iterator[Finding]:
    """What keeps a folder from being opened as a checkpoint: GGUF files alone, adapters."""
    for folder, name in ((base, who[0]), (aligned, who[1])):
        if not _has_weights(folder) and any(folder.glob("*.gguf")):
            yield error(
                "gguf",
                f"{name} has GGUF files only, whose weights are quantized",
                "take the safetensors checkpoint that they were made from",
            )
    if _is_adapter(base):
        yield error(
            "adapter",
            f"{who[0]} is an adapter ({ADAPTER_CONFIG} and no whole checkpoint)",
            "give the model that the adapter was trained on as the base",
        )
    if recipe.adapter is None and _is_adapter(aligned):
        yield error(
            "adapter",
            f"{who[1]} is an adapter ({ADAPTER_CONFIG} and no whole checkpoint)",
            "add --lora (Recipe.adapter='adapter' writes an adapter scaled by 1 + α, 'merged' a "
            "whole checkpoint)",
        )
    elif recipe.adapter is None and (aligned / ADAPTER_CONFIG).is_file():
        yield warning(
            "adapter",
            f"{who[1]} has an adapter beside its whole checkpoint, which is left out",
            "merge it first if it belongs to the model, or add --lora if it is what was trained",
        )
    elif recipe.adapter is not None and not (aligned / ADAPTER_CONFIG).is_file():
        yield error(
            "adapter",
            f"{who[1]} is no adapter: it has no {ADAPTER_CONFIG}",
            "leave --lora out, or name the adapter's folder",
        )


def _has_weights(folder: Path) -> bool:
    names = [*_WHOLE, *(f"{name}.index.json" for name in _WHOLE)]
    return any((folder / name).exists() or (folder / name).is_symlink() for name in names)


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not _has_weights(folder)


def quantization_findings(checkpoint: Checkpoint, config: Config, who: str) -> Iterator[Finding]:
    """Quantized weights are codes and scales: their difference means nothing."""
    how = _method(checkpoint.folder, config) or _by_tensors(checkpoint.tensors.values())
    if how:
        yield error(
            "quantized",
            f"{who} is quantized ({how}), and codes cannot be extrapolated",
            "take the unquantized checkpoint that it was made from, and quantize the result",
        )


def _method(folder: Path, config: Config) -> str:
    stated: Any = config.raw.get("quantization_config") or config.text.get("quantization_config")
    if not stated:
        found = [kind for name, kind in _QUANTIZER_FILES.items() if (folder / name).is_file()]
        return f"{found[0]}, by its quantizer's file" if found else ""
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if method is None and isinstance(stated, dict):
        bits = [f"{n} bits" for n in (4, 8) if stated.get(f"load_in_{n}bit")]
        method = f"bitsandbytes, {bits[0]}" if bits else None
    return f"{method or 'quantization_config'}, by its config.json"


def _by_tensors(tensors: Iterable[StoredTensor]) -> str:
    for tensor in tensors:
        if _NARROW.match(tensor.code):
            return f"{tensor.name} is {tensor.code}"
        for pattern, kind in _QUANTIZED:
            if pattern.search(tensor.name):
                return f"{kind}, by its tensor {tensor.name}"
    return ""


def same_file_findings(
    base: Checkpoint, aligned: Checkpoint, who: tuple[str, str]
) -> Iterator[Finding]:
    """Whether both names lead to the same bytes; nothing is compared but the files themselves."""
    if _same_files(base, aligned):
        yield error(
            "same-weights",
            f"{who[0]} and {who[1]} are the same files, so their difference is 0",
            "name the checkpoint before and the one after preference training",
        )


def _same_files(base: Checkpoint, aligned: Checkpoint) -> bool:
    if base.shards != aligned.shards:
        return False
    try:
        return all((base.folder / name).samefile(aligned.folder / name) for name in aligned.shards)
    except OSError:  # reading it will say so
        return False


def pickled_findings(checkpoint: Checkpoint, who: str) -> Iterator[Finding]:
    pickled = [name for name in checkpoint.shards if name.endswith(".bin")]
    if pickled:
        yield note(
            "pickled",
            f"{who} is stored as PyTorch files ({pickled[0]})",
            "nothing: they are read as tensors alone, no pickle is executed, and the result is "
            "safetensors",
        )
