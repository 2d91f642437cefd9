"""The model card of a result: what it is made of and how, in front matter and in words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from w2s.expo.inputs import is_hub_id
from w2s.expo.recipe import Recipe
from w2s.expo.report import COLUMNS, DTYPE_NAMES, Report

PAPER = "https://arxiv.org/abs/2404.16792"
_LIMIT = 64 << 10  # bytes of a card that its front matter may take
_LONGEST = 200  # characters of a licence's name or address


@dataclass(frozen=True)
class Licence:
    """What a card's front matter states; all empty where it states nothing."""

    id: str = ""
    name: str = ""
    link: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.id, self.name, self.link) if part) or "unknown"

    def front_matter(self) -> dict[str, str]:
        named = {"license_name": self.name, "license_link": self.link}
        return {"license": self.id} | {key: value for key, value in named.items() if value}


def read_licence(folder: Path) -> Licence:
    """The licence that README.md of a folder states in its front matter; nothing is guessed."""
    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8", "replace")
        found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
        stated: Any = yaml.safe_load(found[1]) if found else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return Licence()
    if not isinstance(stated, dict):
        return Licence()
    licence = stated.get("license")
    if isinstance(licence, list) and all(isinstance(one, str) for one in licence):
        licence = ", ".join(licence)
    parts = (licence, stated.get("license_name"), stated.get("license_link"))
    return Licence(*(part[:_LONGEST] if isinstance(part, str) else "" for part in parts))


def model_card(report: Report, base: Path, aligned: Path, code: Sequence[str]) -> str:
    """README.md of a result. code: names of the Python files that lie beside it."""
    recipe = report.recipe
    names = (shown_name(recipe.base), shown_name(recipe.aligned))
    licences = (read_licence(base), read_licence(aligned))
    blocks = [
        _front_matter(recipe, names, licences),
        f"# {_code(names[1])}, extrapolated from {_code(names[0])}\n",
        "Weight extrapolation ([ExPO](" + PAPER + ")) without any training: each weight is moved "
        "on in the direction in which preference training moved it,\n\n"
        "    θ₂ = θ₁ + α (θ₁ − θ₀)\n",
        _settings(report, names),
        _licences(names, licences),
        *([_own_code(code)] if code else []),
        _layers(report),
        _again(report),
        "## Citation\n\nChujie Zheng et al., 2024, [arXiv:2404.16792](" + PAPER + ").\n",
    ]
    return "\n".join(blocks)


def shown_name(name: str) -> str:
    """A hub id as it is; of a path its last part, so that no folders of a machine are published."""
    return name if is_hub_id(name) else (Path(name).resolve().name or "model")


def _front_matter(recipe: Recipe, names: tuple[str, str], licences: tuple[Licence, Licence]) -> str:
    licence = {key: _printable(value) for key, value in _common(licences).items()}
    content: dict[str, Any] = {
        "base_model": [*map(_printable, names)],
        "base_model_relation": "merge",
        "library_name": "peft" if recipe.adapter == "adapter" else "transformers",
        **licence,
        "tags": ["expo", "merge"],
    }
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1 << 20)
    return f"---\n{text}---\n"


def _common(licences: tuple[Licence, Licence]) -> dict[str, str]:
    """The licence where both cards state the same; "other" where they differ; never a guess."""
    if not all(licence.id for licence in licences):
        return {"license": "unknown"}
    return licences[0].front_matter() if licences[0] == licences[1] else {"license": "other"}


def _settings(report: Report, names: tuple[str, str]) -> str:
    recipe = report.recipe
    revisions = (recipe.base_revision, recipe.aligned_revision)
    shown = [
        _code(name) + (f", revision {_code(revision)}" if revision else "")
        for name, revision in zip(names, revisions, strict=True)
    ]
    codes = sorted({task.out_code for task in report.survey.tasks})
    grown = [task for task in report.survey.tasks if task.rows is not None]
    copied = sum(task.base is None for task in report.survey.tasks)
    lines = [
        f"θ₀, before preference training: {shown[0]}",
        f"θ₁, after it: {shown[1]}",
        f"α: {recipe.alpha!r}",
        *(f"α of tensors found by {_code(one)}: {value!r}" for one, value in recipe.alpha_for),
        *(f"tensors found by {_code(one)} are θ₁'s" for one in recipe.skip),
        f"effective α, what rounding left of it: {_effective(report)}",
        f"rounding: {recipe.rounding}" + (f", seed {recipe.seed}" * (recipe.rounding != "nearest")),
        f"dtype: {', '.join(DTYPE_NAMES.get(one, one) for one in codes)}",
    ]
    if copied:
        lines.append(f"{copied} of {len(report.survey.tasks)} tensors are copied from θ₁")
    if grown:
        tensors = ", ".join(_code(task.aligned.name) for task in grown)
        lines.append(f"rows from {grown[0].rows} on of {tensors} are new in θ₁ and copied from it")
    lines += [f"**{advice}**" for advice in map(_plain, report.advice())]
    return "## How\n\n" + "".join(f"* {line}\n" for line in lines)


def _effective(report: Report) -> str:
    if report.recipe.adapter == "adapter" and not report.sums:
        return "all of it (the adapter is scaled, and no weight is rounded)"
    if not report.whole.delta:
        return "none (no weight was changed)"
    return f"{report.effective_alpha:.4g}"


def _licences(names: tuple[str, str], licences: tuple[Licence, Licence]) -> str:
    lines = (
        f"* {_code(name)}: {_code(str(licence)) if licence.id else 'unknown'}\n"
        for name, licence in zip(names, licences, strict=True)
    )
    return (
        "## Licences\n\nAs the cards of both models state them; nothing was guessed.\n\n"
        + "".join(lines)
    )


def _own_code(code: Sequence[str]) -> str:
    return (
        "## Code\n\nθ₁ brings Python code of its own, copied unread and unrun: "
        f"{', '.join(map(_code, code))}. Loading the model needs `trust_remote_code=True`; read "
        "the code first.\n"
    )


def _layers(report: Report) -> str:
    rows = report.table()
    if not rows:
        return "## Layers\n\nNo tensor was extrapolated.\n"
    head = "| " + " | ".join(COLUMNS) + " |\n" + "| --- " + "| ---: " * (len(COLUMNS) - 1) + "|\n"
    body = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return f"## Layers\n\nΔ = θ₁ − θ₀; norms over all elements of a layer.\n\n{head}{body}"


def _again(report: Report) -> str:
    command = " ".join(map(shlex.quote, _arguments(report)))
    ticks = "`" * max(3, _longest_run(command) + 1)
    return f"## Made again by\n\n{ticks}\n{_printable(command)}\n{ticks}\n"


def _arguments(report: Report) -> list[str]:
    recipe = report.recipe
    found = ["w2s", "expo", "--base", shown_name(recipe.base)]
    found += ["--aligned", shown_name(recipe.aligned), "--alpha", repr(recipe.alpha)]
    for pattern, value in recipe.alpha_for:
        found += ["--alpha-for", f"{pattern}={value!r}"]
    for pattern in recipe.skip:
        found += ["--skip", pattern]
    if recipe.dtype is not None:
        found += ["--dtype", recipe.dtype]
    if recipe.rounding != "nearest":
        found += ["--rounding", recipe.rounding, "--seed", str(recipe.seed)]
    if recipe.shard_size is not None:
        found += ["--shard-size", str(recipe.shard_size)]
    if recipe.adapter is not None:
        found += ["--lora", recipe.adapter]
    for side, revision in (("base", recipe.base_revision), ("aligned", recipe.aligned_revision)):
        found += [f"--{side}-revision", revision] if revision else []
    return [*found, "--out", "OUT"]  # not the name it got, so that equal results are equal files


def _code(text: str) -> str:
    """Any text as a Markdown code span, which nothing in it can end."""
    shown = _printable(text)
    ticks = "`" * (_longest_run(shown) + 1)
    space = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else ""
    return f"{ticks}{space}{shown}{space}{ticks}" if shown else "(empty)"


def _plain(text: str) -> str:
    """Any text as Markdown text without any markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", _printable(text))


def _printable(text: str) -> str:
    """Control characters, line ends and broken Unicode as escapes."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
