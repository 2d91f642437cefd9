"""The folders of θ₀ and θ₁: given as folders, or brought from the hub with only what is needed."""

from __future__ import annotations

import json
import re
from glob import escape
from pathlib import Path

from w2s.errors import ExpoError
from w2s.expo.recipe import Recipe

ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)
# What goes with the weights: little, and all that the result and its card are made of.
_SIDE_FILES = (
    "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.md", "LICENSE*", "LICENCE*",
    "NOTICE*", "USE_POLICY*",
)  # fmt: skip
# Other forms of the same weights, in folders that no loader looks into.
_NOT_NEEDED = ("*/*", "*.onnx*", "*.msgpack.index.json", "*.h5.index.json", "consolidated*")
# Of a checkpoint and of an adapter: the first of these that is there is what transformers loads.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def roles(recipe: Recipe) -> tuple[str, str]:
    """What θ₀ and θ₁ are called in every sentence: by their option and as the user named them."""
    return f"the base model ({recipe.base})", f"the aligned model ({recipe.aligned})"


def is_hub_id(name: str) -> bool:
    """Whether the name stands for a repository of the hub: it is no path that exists."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def local_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: the one that is named, or a hub id's in the local cache.

    Of a hub id only the files that count are downloaded: safetensors, or `.bin` files where there
    are no others, never both, and the small files beside them. What is in the cache is not
    downloaded again, and offline (`HF_HUB_OFFLINE=1`) the cache is all that is looked at.

    Raises:
        ExpoError: there is no such folder; the hub does not have it or cannot be reached and the
            cache lacks it; it is a GGUF file.
    """
    path = Path(name)
    if name.endswith(".gguf"):
        raise ExpoError(
            f"{name} is a GGUF file, whose weights are quantized; take the safetensors checkpoint "
            "that it was made from"
        )
    if path.is_dir():
        return path
    if path.exists() or path.is_symlink():
        raise ExpoError(f"{name} is not a folder; name the folder that holds the weight files")
    if not is_hub_id(name):
        raise ExpoError(f"{name} does not exist; name a folder with a checkpoint, or a hub id")
    folder = _download(name, revision, list(_SIDE_FILES), ignore=list(_NOT_NEEDED))
    for weights in _weights(folder):
        if all((folder / file).is_file() for file in weights):
            return folder
        # By its commit, so that a branch that moves on meanwhile cannot mix two checkpoints.
        _download(name, folder.name, [escape(file) for file in weights], wanted_by=revision)
        if all((folder / file).is_file() for file in weights):
            return folder
    raise ExpoError(
        f"the weights of {name} are neither in the local cache nor to be had from the hub as "
        f"{' or '.join(_WEIGHTS)}; download them while online, or take another repository"
    )


def _weights(folder: Path) -> list[list[str]]:
    """The sets of weight files that may be a repository's, the best form first."""
    if not (folder / ADAPTER_CONFIG).is_file():
        indexes = [folder / f"{name}.index.json" for name in _WEIGHTS]
        for single, index in zip(_WEIGHTS, indexes, strict=True):
            if index.is_file():
                return [_shards(index) or [single]]
        return [[name] for name in _WEIGHTS]
    return [[name] for name in _ADAPTER_WEIGHTS]


def _shards(index: Path) -> list[str]:
    """The files that an index names; none if it cannot be read, which opening it will say."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return sorted(name for name in names if isinstance(name, str))


def _download(
    name: str,
    revision: str | None,
    files: list[str],
    *,
    ignore: list[str] | None = None,
    wanted_by: str | None = None,
) -> Path:
    """The snapshot folder of a hub id with these files in it, as far as the repository has them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = f"{name} (revision {wanted_by or revision})" if wanted_by or revision else name
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=ignore)
        )
    except GatedRepoError as reason:
        what, advice = "may only be read by those whom its owners let in", "ask them for access, "
        raise ExpoError(f"{asked} {what}; {advice}then log in with `hf auth login`") from reason
    except RevisionNotFoundError as reason:
        what = f"{name} has no revision {wanted_by or revision}"
        raise ExpoError(f"{what}; name a branch, a tag or a commit of it") from reason
    except RepositoryNotFoundError as reason:
        raise ExpoError(
            f"{name} is neither a folder here nor a repository of the hub that can be read; "
            "correct the name, or log in with `hf auth login` if it is private"
        ) from reason
    except LocalEntryNotFoundError as reason:
        raise ExpoError(
            f"{asked} is not a folder, not whole in the local cache, and the hub cannot be "
            "reached; correct the name, or download it while online"
        ) from reason
    except Exception as reason:  # whatever the network or the disk raises on the way
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise ExpoError(
            f"{asked} cannot be brought from the hub ({lines[0]:.200}); see to that, then start "
            "again, which goes on where the download ended"
        ) from reason
