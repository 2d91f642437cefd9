"""Tokenizer rules: rows of the embedding belong together when their tokens are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from w2s.preflight.finding import Finding, error, note, warning

_NAMED = 4
_LIMIT = 1 << 28  # bytes; the largest tokenizers have a tenth of it
_FILES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "added_tokens.json",
)  # fmt: skip


@dataclass
class Tokenizer:
    """The tokenizer files of a folder, parsed when something is asked of them.

    problem: why they cannot be read. merges: a digest of a byte-pair encoding's merges, known with
    the vocabulary; empty where there are none.
    """

    folder: Path
    problem: str = field(default="", init=False)
    merges: str = field(default="", init=False)

    @cached_property
    def files(self) -> dict[str, bytes]:
        found = {}
        for name in _FILES:
            path = self.folder / name
            try:
                if path.is_file() or path.is_symlink():
                    if path.stat().st_size > _LIMIT:
                        raise OSError(f"more than {_LIMIT >> 20} MiB")
                    found[name] = path.read_bytes()
            except OSError as reason:
                self.problem = f"{name}: {reason.strerror or reason}"
        return found

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token -> id, added tokens too; None when it cannot be told (`problem` says why)."""
        try:
            if "tokenizer.json" in self.files:
                return self._of_json() | self._added()
            if "vocab.json" in self.files:
                return dict(json.loads(self.files["vocab.json"])) | self._added()
            return self._by_transformers()
        except Exception as reason:  # tokenizers raise bare exceptions for files they cannot parse
            lines = str(reason).strip().splitlines() or [""]
            self.problem = f"{type(reason).__name__}: {lines[0]:.150}"
            return None

    def _of_json(self) -> dict[str, int]:
        content = json.loads(self.files["tokenizer.json"])
        listed = content["model"]["vocab"]
        self.merges = _digest(content["model"].get("merges"))
        if isinstance(listed, list):  # unigram: (piece, score) in the order of the ids
            listed = {entry[0]: number for number, entry in enumerate(listed)}
        added = {entry["content"]: int(entry["id"]) for entry in content.get("added_tokens") or ()}
        return dict(listed) | added

    def _added(self) -> dict[str, int]:
        """Added tokens that stand outside of the main file."""
        found = dict(json.loads(self.files.get("added_tokens.json", b"{}")))
        config = self.folder / "tokenizer_config.json"
        stated: Any = json.loads(config.read_bytes()) if config.is_file() else {}
        for number, entry in (stated.get("added_tokens_decoder") or {}).items():
            found[entry["content"]] = int(number)
        return found

    def _by_transformers(self) -> dict[str, int]:
        from transformers import AutoTokenizer

        return dict(AutoTokenizer.from_pretrained(str(self.folder)).get_vocab())


def tokenizer_findings(
    base: Tokenizer, aligned: Tokenizer, rows: int | None, used: bool, who: tuple[str, str]
) -> Iterator[Finding]:
    """rows: of the vocabulary that both sides have; None when no tensor has such rows. used:
    whether any of them is extrapolated."""
    sides = [*zip((base, aligned), who, strict=True)]
    absent = [name for one, name in sides if not one.files and not one.problem]
    damaged = [(one, name) for one, name in sides if one.problem]
    if damaged:
        yield _unreadable(*damaged[0])
        return
    if absent:
        yield note(
            "tokenizer-missing",
            f"{' and '.join(absent)} {'has' if len(absent) == 1 else 'have'} no tokenizer files, "
            "so whether a row is the same token in both was not looked at",
            "nothing if both are of one family; the result gets the aligned model's, if any",
        )
        return
    if base.files == aligned.files and _same_added(base, aligned):
        return
    for one, name in sides:
        if one.vocabulary is None:
            yield _unreadable(one, name)
            return
    yield from _compared(base, aligned, rows, used, who)


def _unreadable(one: Tokenizer, name: str) -> Finding:
    return warning(
        "tokenizer",
        f"the tokenizer of {name} cannot be read ({one.problem})",
        "copy its tokenizer files from their source again: whether a row is the same token in both "
        "was not looked at",
    )


def _same_added(base: Tokenizer, aligned: Tokenizer) -> bool:
    try:
        return base._added() == aligned._added()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # parsing the vocabulary says why


def _compared(
    base: Tokenizer, aligned: Tokenizer, rows: int | None, used: bool, who: tuple[str, str]
) -> Iterator[Finding]:
    mine, theirs = base.vocabulary or {}, aligned.vocabulary or {}
    moved = [token for token in mine.keys() & theirs.keys() if mine[token] != theirs[token]]
    moved.sort(key=lambda token: mine[token])
    if moved:
        tokens = ", ".join(f"{one!r} is {mine[one]} and {theirs[one]}" for one in moved[:_NAMED])
        kind = error if used else warning
        yield kind(
            "vocabulary-order",
            f"{len(moved)} tokens have other ids in {who[0]} than in {who[1]} ({tokens}), so rows "
            "of one number belong to different tokens",
            "give the checkpoint that the aligned model was trained from as the base, or copy "
            "these rows from the aligned model: --skip 'embed|lm_head'"
            if used
            else "nothing: those rows are copied from the aligned model",
        )
        return
    names = {number: token for token, number in mine.items()}
    gone = sorted(token for token in mine.keys() - theirs.keys())
    fresh = sorted(theirs.keys() - mine.keys(), key=lambda token: theirs[token])
    renamed = [token for token in fresh if theirs[token] in names]
    if gone or renamed:
        tokens = ", ".join(
            [f"{names[theirs[one]]!r} is now {one!r}" for one in renamed[:_NAMED]]
            or [f"{one!r} is gone" for one in gone[:_NAMED]]
        )
        yield warning(
            "tokenizer",
            f"the tokenizers of {who[0]} ({len(mine)} tokens) and {who[1]} ({len(theirs)} tokens) "
            f"differ: {tokens}",
            "see that the one was trained from the other; the rows of renamed tokens are "
            "extrapolated like others",
        )
    elif base.merges != aligned.merges and base.merges and aligned.merges:
        yield warning(
            "tokenizer",
            f"the tokenizers of {who[0]} and {who[1]} merge in another order",
            "see that the one was trained from the other; the result has the aligned model's",
        )
    inside = [
        token for token in fresh if theirs[token] not in names and theirs[token] < (rows or 0)
    ]
    if inside:
        yield note(
            "new-token-in-old-row",
            f"{who[1]} has {_tokens(inside)}, in rows that {who[0]} has for no token",
            "nothing: they are extrapolated like others",
        )


def _digest(merges: object) -> str:
    """Of the merges in order, in one form whoever wrote them: "a b", or ["a", "b"]."""
    if not isinstance(merges, list) or not merges:
        return ""
    lines = (one if isinstance(one, str) else " ".join(map(str, one)) for one in merges)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def new_tokens(aligned: Tokenizer, begin: int) -> str:
    """The tokens from id `begin` on, as the end of a sentence; empty when they are not known."""
    found = aligned.vocabulary if aligned.files else None
    tokens = [token for token, number in (found or {}).items() if number >= begin]
    tokens.sort(key=lambda token: (found or {})[token])
    return f": {_tokens(tokens)}" if tokens else ""


def _tokens(tokens: list[str]) -> str:
    rest = f" and {len(tokens) - _NAMED} more" if len(tokens) > _NAMED else ""
    noun = "the token" if len(tokens) == 1 else "the tokens"
    return f"{noun} {', '.join(map(repr, tokens[:_NAMED]))}{rest}"
