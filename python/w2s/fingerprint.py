"""Which model a name stands for, told cheaply: no weights are read."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

# The files of a model's folder that decide what it writes, and no others that may lie there.
_DECIDING = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "vocab*",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.py",
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.gguf", "*.model",
)  # fmt: skip
_SMALL = 1 << 16  # bytes up to which a file is read


UNKNOWN = "not loaded yet"  # what is only known when the model is loaded


def identity(name: str) -> tuple[str, str]:
    """A model's name, made absolute when it is a path, and a digest of its files.

    Small files count with their bytes, weights with size and modification time. A hub id counts
    with the commit in the local cache, `UNKNOWN` before it is downloaded.
    """
    path = Path(name)
    if path.is_dir():
        files = [entry for entry in sorted(path.iterdir()) if _decides(entry)]
        return str(path.resolve()), _digest(files)
    if path.is_file():
        return str(path.resolve()), _digest([path])
    return name, _cached_commit(name)


def _decides(entry: Path) -> bool:
    return entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in _DECIDING)


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        status = file.stat()
        found.update(f"{file.name}\0{status.st_size}\0".encode())
        if status.st_size <= _SMALL:
            found.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            found.update(f"{status.st_mtime_ns}\0".encode())
    return found.hexdigest()[:16]


def _cached_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # neither a path nor a hub id; loading it says so
        return UNKNOWN
    # …/snapshots/COMMIT/config.json
    return Path(config).parent.name if isinstance(config, str) else UNKNOWN
