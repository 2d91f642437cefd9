"""Vocabularies read from tokenizer files: the same as transformers', and none that is not there."""

import json

import pytest

from support.tokenizer_kinds import every_kind
from w2s.expo.rules.tokenizers import Tokenizer, new_tokens, tokenizer_findings

WHO = ("the base model", "the aligned model")


@pytest.mark.parametrize(("kind", "tokenizer"), every_kind().items(), ids=every_kind().keys())
def test_the_vocabulary_is_that_of_transformers(tmp_path, kind, tokenizer):
    tokenizer.add_tokens(["<chat>"])
    tokenizer.save_pretrained(tmp_path)
    found = Tokenizer(tmp_path)
    assert found.vocabulary == tokenizer.get_vocab()
    assert new_tokens(found, len(tokenizer) - 1) == ": the token '<chat>'"


def test_files_of_a_slow_tokenizer_are_read_without_it(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added_tokens.json").write_text('{"<x>": 2}')
    config = {"added_tokens_decoder": {"3": {"content": "<y>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(tmp_path).vocabulary == {"a": 0, "b": 1, "<x>": 2, "<y>": 3}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", '{"model": {"vocab": [[]]}}'),
        ("vocab.json", "{"),
        ("added_tokens.json", "[1]"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.model", "no sentencepiece"),
    ],
)
def test_damaged_files_are_one_warning(tmp_path, name, content):
    base, aligned = tmp_path / "base", tmp_path / "aligned"
    for folder in (base, aligned):
        folder.mkdir()
        if name != "tokenizer.model":
            (folder / "vocab.json").write_text('{"a": 0}')
    (aligned / name).write_text(content)
    if name == "tokenizer.model":
        (base / name).write_text("another")
    found = [*tokenizer_findings(Tokenizer(base), Tokenizer(aligned), 1, True, WHO)]
    assert [(one.level, one.code) for one in found] == [("warning", "tokenizer")]
    assert "cannot be read (" in found[0].what


def test_equal_files_are_not_parsed(tmp_path):
    for side in ("base", "aligned"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "tokenizer.json").write_text("no JSON")
    sides = (Tokenizer(tmp_path / "base"), Tokenizer(tmp_path / "aligned"))
    assert [*tokenizer_findings(*sides, 1, True, WHO)] == []


def test_added_tokens_of_the_config_alone_are_compared(tmp_path):
    for number, side in enumerate(("base", "aligned")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
        config = {"added_tokens_decoder": {str(number + 1): {"content": "<x>"}}}
        (tmp_path / side / "tokenizer_config.json").write_text(json.dumps(config))
    sides = (Tokenizer(tmp_path / "base"), Tokenizer(tmp_path / "aligned"))
    (found,) = tokenizer_findings(*sides, 3, True, WHO)
    assert (found.level, found.code) == ("error", "vocabulary-order")
    assert "'<x>' is 1 and 2" in found.what
