"""The text of a response that is not over: nothing that a later token could change."""

import pytest

from support.tokenizer_kinds import TEXTS, byte_fallback, every_kind
from w2s.scorers.response_text import writer_of

EOS = 2  # of every tokenizer here


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_small", "byte_fallback"])
@pytest.mark.parametrize("text", TEXTS)
def test_half_a_character_is_held_back_and_no_more(kind, text):
    tokenizer = every_kind()[kind]
    writer, ids = writer_of(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = writer.text(ids, True)[0]
    before = ""
    for end in range(len(ids) + 1):
        found = writer.text(ids[:end], False)[0]
        assert whole.startswith(found)
        assert found.startswith(before)
        # What is held back is less than a character.
        assert len(writer.decode(ids[:end]).rstrip("\ufffd")) <= len(found)
        before = found
    assert before == whole


def test_half_a_character_is_scored_when_the_response_is_over():
    writer = writer_of(byte_fallback())
    ids = byte_fallback()("é€", add_special_tokens=False)["input_ids"]
    assert writer.text(ids[:-1], False) == ("é", False)
    assert writer.text(ids[:-1], True)[0].endswith("\ufffd")
    assert writer.text([*ids, EOS], True) == ("é€", True)
    assert writer.text([EOS], True) == ("", True)
    assert writer.text([], False) == ("", False)
