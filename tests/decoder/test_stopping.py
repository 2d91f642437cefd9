"""Stop strings: the automaton against decoding the text and looking."""

import copy
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import w2s
from support.tiny import TableModel, random_table
from w2s.stopping import ENDED_BY_EOS, ENDED_BY_STOP, START, stop_table, token_bytes

TEXT = "the film was good, the end. é über 漢字 🎬 naïve\n\nQ: how? A: so so\n" * 4


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def byte_fallback():
    """The pieces of a SentencePiece vocabulary: blanks as ▁, bytes as <0xNN>."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁the", "▁film", "▁", "end", ".", "é", "▁é"]
    tokenizer = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=[byte_level, byte_fallback])
def tokenizer(request):
    return request.param()


def test_the_tokens_bytes_are_those_of_the_decoded_text(tokenizer):
    """Letters byte by byte, between whole tokens: decoders need valid UTF-8 in the end."""
    dice = random.Random(0)
    pieces = token_bytes(tokenizer, len(tokenizer))
    single = {piece: token for token, piece in enumerate(pieces) if len(piece) == 1}
    whole = [token for token, piece in enumerate(pieces) if piece and _is_text(piece)]
    for _ in range(200):
        ids = []
        for _ in range(dice.randrange(1, 12)):
            letter = dice.choice(TEXT).encode()
            ids += [single[letter[i : i + 1]] for i in range(len(letter))]
            ids.append(dice.choice(whole))
        text = b"".join(pieces[i] for i in ids).decode()
        assert text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _is_text(piece):
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


STOPS = [("\n\n",), ("end.", "nd"), ("a", "aa", "ab"), ("é",), ("漢", "Q: "), ("abab", "babb")]


@pytest.mark.parametrize("stop", STOPS)
def test_a_row_stops_at_the_token_that_completes_a_stop_string(tokenizer, stop):
    table = stop_table(len(tokenizer) + 3, [1], stop, tokenizer, torch.device("cpu"))
    pieces = token_bytes(tokenizer, len(tokenizer))
    dice = random.Random(1)
    likely = [
        i for i, piece in enumerate(pieces) if piece and any(piece in s.encode() for s in stop)
    ]
    for _ in range(300):
        text, state = b"", START
        for _ in range(15):
            token = dice.choice(likely) if dice.random() < 0.8 else dice.randrange(2, len(pieces))
            text += pieces[token]
            state = int(table[state, token])
            stopped = any(s.encode() in text for s in stop)
            assert (state == ENDED_BY_STOP) == stopped
            if stopped:
                break


def test_an_ended_row_stays_ended_and_eos_ends_at_once(tokenizer):
    table = stop_table(300, [7, 9, 9999], ("end",), tokenizer, torch.device("cpu"))
    assert (table[ENDED_BY_EOS] == ENDED_BY_EOS).all()
    assert (table[ENDED_BY_STOP] == ENDED_BY_STOP).all()
    assert (table[START:, [7, 9]] == ENDED_BY_EOS).all()


def test_text_ends_before_the_stop_string_and_the_score_covers_the_tokens(tokenizer):
    size = len(tokenizer)
    model = w2s.load((TableModel(random_table(3, vocab=size), eos=1), tokenizer))
    plan = w2s.SearchPlan(1, 6, 4, max_new_tokens=40, stop=("e", "t"), top_k=0, seed=3)
    found = w2s.search([[5, 6]], w2s.LocalProposer(model, plan), None, plan)[0]
    reasons = {c.finish_reason for c in found.candidates}
    assert "stop" in reasons
    for candidate in found.candidates:
        text = model.decode(candidate.tokens)
        assert not any(s in candidate.text for s in plan.stop)
        if candidate.finish_reason == "stop":
            assert candidate.finished
            assert text.startswith(candidate.text)
            assert any(s in text for s in plan.stop)
            assert not any(s in model.decode(candidate.tokens[:-1]) for s in plan.stop)


def test_a_special_token_given_by_name_stops_though_it_adds_no_text(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert token_bytes(tokenizer, turn + 1)[turn] == b""
    table = stop_table(turn + 5, [7], ("<|turn|>", "end"), tokenizer, torch.device("cpu"))
    assert (table[START:, turn] == ENDED_BY_STOP).all()
    assert (table[START:, 7] == ENDED_BY_EOS).all()
    narrow = stop_table(turn, [7], ("<|turn|>",), tokenizer, torch.device("cpu"))
    assert narrow.shape[1] == turn


def test_stop_strings_need_a_tokenizer():
    with pytest.raises(w2s.SearchError, match="need a tokenizer"):
        w2s.LocalProposer((TableModel(random_table(0)), None), w2s.SearchPlan(stop=("x",)))
