"""`side_files`: what lies beside the weights of a result: config, tokenizer, report and card."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from w2s.errors import ExpoError
from w2s.expo.readme import model_card
from w2s.expo.recipe import Recipe
from w2s.expo.report import DTYPE_NAMES, FILE_NAME, Report
from w2s.expo.survey import Survey
from w2s.expo.tasks import FLOATING, TensorTask

# All that a tokenizer is read from, and all else that goes with a model; never a weight.
_TOKENIZER = (
    "tokenizer*", "vocab*.json", "vocab*.txt", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "*.tiktoken", "spiece.model", "sentencepiece*.model", "tekken.json",
    "chat_template*",
)  # fmt: skip
_OTHERS = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "*.py", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.index.json")
_LIMIT = 1 << 28  # bytes; the largest tokenizers have a tenth of it
_DTYPE_KEYS = ("dtype", "torch_dtype")


def side_files(
    recipe: Recipe, survey: Survey, report: Report, base_folder: Path, aligned_folder: Path
) -> dict[str, bytes]:
    """The small files of a result, by their plain names.

    config.json is θ₁'s with the dtype that was written; tokenizer, chat template, generation and
    processor configs, code and licence texts are θ₁'s, byte for byte. An adapter that was merged
    takes from the base what its own folder does not have. README.md is the model card,
    expo_report.json the whole report.

    Raises:
        ExpoError: a file cannot be read, or is far too large for what its name says.
    """
    found = {}
    if recipe.adapter == "merged":
        found = _copied(base_folder, _OTHERS)
        if not _names(aligned_folder, _TOKENIZER):
            found |= _copied(base_folder, _TOKENIZER)
    found |= _copied(aligned_folder, (*_TOKENIZER, *_OTHERS))
    config = (base_folder if recipe.adapter == "merged" else aligned_folder) / "config.json"
    if config.is_file():
        found["config.json"] = config_text(config, recipe, survey.tasks)
    code = sorted(name for name in found if name.endswith(".py"))
    found["README.md"] = model_card(report, base_folder, aligned_folder, code).encode()
    content = json.dumps(report.as_json(), ensure_ascii=False, indent=1, allow_nan=False)
    found[FILE_NAME] = (content + "\n").encode("utf-8", "backslashreplace")
    return found


def config_text(path: Path, recipe: Recipe, tasks: Sequence[TensorTask]) -> bytes:
    """A config.json with the dtype of `tasks` in place of the one it states.

    The keys that are there are set ("dtype", in older configs "torch_dtype"), or "dtype" is added;
    those of the configs within it only where the recipe gives all tensors one dtype.
    """
    try:
        config = json.loads(_read(path))
    except (ValueError, RecursionError) as reason:
        raise ExpoError(f"{path} cannot be read ({reason}); download the file again") from reason
    if not isinstance(config, dict):
        raise ExpoError(f"{path} holds no JSON object; download the file again")
    dtype = _written(tasks)
    if dtype is not None:
        if not any(key in config for key in _DTYPE_KEYS):
            config["dtype"] = dtype
        _set_dtype(config, dtype, inner=recipe.dtype is not None)
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def _set_dtype(config: dict[str, Any], dtype: str, *, inner: bool) -> None:
    for key, value in config.items():
        if key in _DTYPE_KEYS:
            config[key] = dtype
        elif inner and key.endswith("_config") and isinstance(value, dict):
            _set_dtype(value, dtype, inner=True)


def _written(tasks: Sequence[TensorTask]) -> str | None:
    """The dtype of most elements of the matrices, which are nearly all of a model."""
    floating = [task for task in tasks if task.out_code in FLOATING]
    matrices = [task for task in floating if len(task.aligned.shape) > 1]
    codes: Counter[str] = Counter()
    for task in matrices or floating:
        codes[task.out_code] += math.prod(task.aligned.shape)
    return DTYPE_NAMES[codes.most_common(1)[0][0]] if codes else None


def _copied(folder: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    return {name: _read(folder / name) for name in _names(folder, patterns)}


def _names(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Names in a folder that fit; links that lead nowhere too, so that reading them says so."""
    return sorted(
        name
        for name in os.listdir(folder)
        if any(fnmatch(name, pattern) for pattern in patterns)
        and not any(fnmatch(name, pattern) for pattern in _WEIGHTS)
        and not (folder / name).is_dir()
    )


def _read(path: Path) -> bytes:
    try:
        if not path.stat().st_size <= _LIMIT or not path.is_file():
            raise ExpoError(
                f"{path} is no file of at most {_LIMIT >> 20} MiB, as such a file is; take it out "
                "of the folder"
            )
        return path.read_bytes()
    except OSError as reason:
        raise ExpoError(
            f"{path} cannot be read ({reason.strerror or reason}); copy it again or take it out of "
            "the folder"
        ) from reason
