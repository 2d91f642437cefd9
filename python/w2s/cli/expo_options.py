"""The options that `w2s expo` and `w2s expo check` share, and the recipe that they make."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli.errors import BadInput, one_sentence
from w2s.errors import ExpoError

if TYPE_CHECKING:
    from w2s.expo.recipe import Recipe

MODELS, HOW_FAR, RESULT, RUN = (
    "The models",
    "How far, and where",
    "The result",
    "How to run",
)
_SAID_BY_CONFIG = (
    "base", "aligned", "alpha", "base_revision", "aligned_revision", "adapter",
)  # fmt: skip
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


class Rounding(StrEnum):
    """To the nearest number of the dtype, or by chance so that α is kept in the mean."""

    nearest = "nearest"
    stochastic = "stochastic"


class Lora(StrEnum):
    """What is written where θ₁ is a LoRA adapter."""

    adapter = "adapter"
    merged = "merged"


BASE = typer.Option(
    None, metavar="θ₀", rich_help_panel=MODELS,
    help="Folder or hub id of the model before preference training.",
)  # fmt: skip
ALIGNED = typer.Option(
    None, metavar="θ₁", rich_help_panel=MODELS,
    help="Folder or hub id of the model after it; with --lora, of an adapter.",
)  # fmt: skip
BASE_REVISION = typer.Option(
    None, metavar="REV", help="Branch, tag or commit of a hub id.", rich_help_panel=MODELS
)
ALIGNED_REVISION = typer.Option(
    None, metavar="REV", help="Branch, tag or commit of a hub id.", rich_help_panel=MODELS
)
LORA = typer.Option(
    None, rich_help_panel=MODELS,
    help="θ₁ is a LoRA adapter on θ₀: adapter writes it scaled by 1 + α, merged a whole "
    "checkpoint.",
)  # fmt: skip
CONFIG = typer.Option(
    None, metavar="FILE.yml", rich_help_panel=MODELS,
    help="mergekit's YAML (task_arithmetic or linear of two models) in place of --base, --aligned "
    "and --alpha.",
)  # fmt: skip
ALPHA = typer.Option(
    None, help="α: 0 is θ₁, −1 is θ₀; 0.1 to 0.5 is usual.", rich_help_panel=HOW_FAR
)
ALPHA_FOR = typer.Option(
    [], "--alpha-for", metavar="REGEX=VALUE", rich_help_panel=HOW_FAR,
    help="Another α for tensors in whose name REGEX is found; repeatable, the last one wins.",
)  # fmt: skip
SKIP = typer.Option(
    [], "--skip", metavar="REGEX", rich_help_panel=HOW_FAR,
    help="Copy tensors in whose name it is found from θ₁; repeatable.",
)  # fmt: skip
DTYPE = typer.Option(
    None, rich_help_panel=RESULT,
    help="float32, bfloat16, float16 or float64.  [default: θ₁'s, tensor by tensor]",
)  # fmt: skip
ROUNDING = typer.Option(
    Rounding.nearest, rich_help_panel=RESULT,
    help="stochastic keeps a small α in the mean, where bfloat16 would round it away.",
)  # fmt: skip
SEED = typer.Option(0, help="Of stochastic rounding.", rich_help_panel=RESULT)
SHARD_SIZE = typer.Option(
    None, metavar="SIZE", rich_help_panel=RESULT,
    help="Largest file, such as 5GB, 500MiB or bytes.  [default: cut like θ₁]",
)  # fmt: skip


def build_recipe(
    given: dict[str, Any], config: Path | None, *, alpha_default: float | None = None
) -> Recipe:
    """The recipe of the options, or of a mergekit file with what options say beside it.

    given: fields of `Recipe` as the command line has them, None or empty where not given, with
    `alpha_for` and `shard_size` as texts.

    Raises:
        BadInput: an option is missing, has no meaning beside --config or cannot be read; names it.
    """
    from w2s.expo.mergekit import recipe_of_yaml
    from w2s.expo.recipe import Recipe

    fields = {name: value for name, value in given.items() if value not in (None, [])}
    if "alpha_for" in fields:
        fields["alpha_for"] = tuple(map(_alpha_for, fields["alpha_for"]))
    if "skip" in fields:
        fields["skip"] = tuple(fields["skip"])
    if "shard_size" in fields:
        fields["shard_size"] = parse_size(fields["shard_size"])
    try:
        if config is not None:
            for name in _SAID_BY_CONFIG:
                if name in fields:
                    raise BadInput(
                        f"{option(name)} has no meaning with --config, which says it; leave one out"
                    )
            return replace(recipe_of_yaml(config), **fields)
        if alpha_default is not None:
            fields.setdefault("alpha", alpha_default)
        for name in ("base", "aligned", "alpha"):
            if name not in fields:
                raise BadInput(f"{option(name)} is missing; give it, or a mergekit --config")
        return Recipe(**fields)
    except ExpoError as error:
        raise BadInput(in_options(one_sentence(error))) from error


def option(field: str) -> str:
    """The command line's name of a field of `Recipe`."""
    return "--lora" if field == "adapter" else "--" + field.replace("_", "-")


def in_options(sentence: str) -> str:
    """A recipe's error in the words of the command line: Recipe.alpha_for is --alpha-for."""
    sentence = re.sub(r"\bRecipe\.adapter='(\w+)'", r"--lora \1", sentence)
    return re.sub(r"\bRecipe\.(\w+)", lambda found: option(found[1]), sentence)


def parse_size(text: str) -> int:
    """Bytes of "5GB", "500 MiB" or "1000"; GB is 10⁹ and GiB 2³⁰, in capitals or not.

    Raises:
        BadInput: it is no such size, or less than a byte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    unit = _UNITS.get(found[2].upper()) if found is not None else None
    count = int(float(found[1]) * unit) if found is not None and unit is not None else 0
    if count < 1:
        raise BadInput(
            f"--shard-size is {text!r}; it must be a size such as 5GB, 500MiB or 1000000 (bytes)"
        )
    return count


def _alpha_for(text: str) -> tuple[str, float]:
    pattern, sign, value = text.rpartition("=")
    try:
        if not sign or not pattern:
            raise ValueError
        return pattern, float(value)
    except ValueError:
        raise BadInput(
            f"--alpha-for is {text!r}; it must be REGEX=VALUE, such as 'mlp=0.5'"
        ) from None
