"""Models from disk or a hub: checkpoints, `.gguf` files and adapters, by transformers and peft."""

import os
from pathlib import Path
from typing import Any

import torch

from w2s.adapters import adapter_folder, base_name, put_on
from w2s.errors import ModelError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def lacks_tokenizer(source: Any) -> bool:
    """Whether neither `source`, a local folder, nor its base when it is an adapter has tokenizer
    files; the embedded pair's folders have none."""
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return False
    if not _has_no_tokenizer(source):
        return False
    where = tokenizer_source(os.fspath(source))
    return where == os.fspath(source) or lacks_tokenizer(where)


def tokenizer_source(source: str) -> str:
    """Where the tokenizer of a folder lies: in it, or with the base that an adapter names."""
    adapter = adapter_folder(source) if Path(source).is_dir() else None
    if adapter is None or not _has_no_tokenizer(adapter):
        return source
    try:
        return base_name(adapter)
    except ModelError:  # loading will say so; here it only means that nothing is found
        return source


def _has_no_tokenizer(folder: str | os.PathLike[str]) -> bool:
    return not any((Path(folder) / name).exists() for name in _TOKENIZER_FILES)


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype {dtype!r} is not a floating-point dtype of torch, like 'bfloat16'")
    return found


def from_pretrained(
    source: str,
    device: str | torch.device,
    dtype: str | torch.dtype,
    tokenizer: Any,
    kwargs: dict[str, Any],
) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, a hub id or a `.gguf` file; arguments as in `w2s.load`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"device {device!r} is not a torch device, like 'cpu' or 'cuda:0'"
        ) from error
    wanted: Any = "auto" if dtype == "auto" and device.type != "cpu" else None
    if wanted is None:
        wanted = torch.float32 if dtype == "auto" else resolve_dtype(dtype)
    where, files = source, {}
    if source.endswith(".gguf"):
        path = Path(source)
        if not path.is_file():
            raise ModelError(f"{source} does not exist")
        where, files = str(path.parent), {"gguf_file": path.name}
    shared: dict[str, Any] = {
        k: kwargs[k] for k in ("revision", "trust_remote_code", "token") if k in kwargs
    }
    hub = {k: v for k, v in shared.items() if k != "trust_remote_code"}
    try:
        adapter = None if files else adapter_folder(where, **hub)
        if adapter is not None:  # what is left to transformers is the base model
            where = base_name(adapter)
            kwargs, shared = (
                {k: v for k, v in given.items() if k != "revision"} for given in (kwargs, shared)
            )
        if tokenizer is None:
            spoken = where if adapter is None else tokenizer_source(adapter)
            tokenizer = AutoTokenizer.from_pretrained(spoken, **files, **shared)
        module = AutoModelForCausalLM.from_pretrained(where, dtype=wanted, **files, **kwargs)
        if adapter is not None:
            module = put_on(module, source, **hub)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        if isinstance(error, ModelError | torch.OutOfMemoryError):
            raise
        raise ModelError(f"{source} cannot be loaded: {error}") from error
    if files:  # the weights are plain now; the quantizer would only refuse to move or save them
        module.hf_quantizer = None
        module.is_quantized = False
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
    if "device_map" not in kwargs:
        module = module.to(device)
    return module, tokenizer
