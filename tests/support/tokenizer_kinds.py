"""Tokenizers of every kind that a text bridge meets, trained on a few lines of many scripts."""

import json
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "The film was a wonder, and the ending was even better than the book.",
    "I would not watch it again; the acting is wooden, isn't it?",
    "Thanks 😀😃 so good 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 — e\u0301te\u0301, ã, n\u0303, Å",
    "映画は素晴らしかった。这部电影很好看。영화가 좋았다",
    "كان الفيلم رائعا جدا\u200f والنهاية أفضل",
    "tabs\there\nlines\n\n  two blanks   three blanks    four",
    "price 12.50 €, 30 % off, 1/2 ½ ²",
)
_SPECIAL = ["<unk>", "<s>", "</s>"]


@cache
def byte_level(vocab: int) -> Any:
    """Byte-level BPE (GPT-2's kind): a token may end inside a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


@cache
def byte_fallback() -> Any:
    """A BPE over "▁" words that spells unknown characters in bytes (Llama 2's kind).

    It knows ASCII and Arabic letters. (A trainer's `limit_alphabet` would cut among equally rare
    letters in an order that changes from run to run.)
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=150, show_progress=False)
    known = ["".join(c for c in text if ord(c) < 0x80 or 0x600 <= ord(c) < 0x700) for text in TEXTS]
    trained.train_from_iterator([text.replace(" ", "▁") for text in known], trainer)
    pieces = json.loads(trained.to_str())["model"]
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            {name: number for number, name in enumerate(names)},
            [tuple(merge) for merge in pieces["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(_SPECIAL)
    return _wrapped(tokenizer)


@cache
def unigram() -> Any:
    """A unigram model over Metaspace words (T5's kind): more text may re-cut what came before."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


@cache
def word_piece() -> Any:
    """WordPiece (BERT's kind): decoding cleans blanks up, tokenizing lowers and strips accents."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=_SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


@cache
def word_level() -> Any:
    """Whole words, everything else unknown."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=AddedToken("</s>", special=True),
    )


def every_kind() -> dict[str, Any]:
    return {
        "byte_level": byte_level(330),
        "byte_level_small": byte_level(270),
        "byte_fallback": byte_fallback(),
        "unigram": unigram(),
        "word_piece": word_piece(),
        "word_level": word_level(),
    }
