"""The sentiment pair that steers the demonstration; MODEL_CARD.md says how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent


class Pair(NamedTuple):
    """Folders of the tuned and the untuned model (config and safetensors, no tokenizer)."""

    tuned: Path
    untuned: Path


def pair() -> Pair:
    """The embedded pair; its models use the tokenizer of `embedded.large()`.

    Raises:
        FileNotFoundError: the installation lacks the model files.
    """
    found = Pair(_HERE / "tuned", _HERE / "untuned")
    for folder in found:
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing: this installation lacks the embedded pair; "
                    "reinstall w2s-kernels, or make the pair again: python -m w2s.train.make_pair"
                )
    return found
