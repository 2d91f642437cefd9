"""Findings between models: one vocabulary, one end, a pair that is a pair."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import torch

from w2s.packing import plain_parameters
from w2s.preflight.card import Card
from w2s.preflight.finding import Finding, error, note, warning
from w2s.preflight.weights import same_weights
from w2s.vocabulary import difference

# The config fields that make two models one architecture and size.
_SIZE = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size",
)  # fmt: skip


def pair_findings(
    large: Card | None, tuned: Card, untuned: Card, *, bridge: bool
) -> Iterator[Finding]:
    """Everything about models that must go together; `large` None looks at the pair alone.

    bridge: a pair with another tokenizer than the large model's may score the text.
    """
    apart = _vocabulary(tuned, untuned)
    if apart:
        yield error(
            "pair-vocabulary",
            apart,
            "use a pair made from one model: its scores compare the same tokens under both",
        )
    if large is not None:
        yield from _with_large(large, tuned, untuned, bridge)
    yield from _difference(tuned, untuned)


def _with_large(large: Card, tuned: Card, untuned: Card, bridge: bool) -> Iterator[Finding]:
    for member in (tuned, untuned):
        apart = _vocabulary(large, member)
        if not apart:
            continue
        texts = large.tokenizer is not None and member.tokenizer is not None
        if texts and bridge:
            yield warning(
                "vocabulary",
                apart,
                "nothing if that is meant: the pair then scores the text in its own tokens "
                "(TextBridgeScorer), which guided decoding (eft) cannot; else use a pair with the "
                "large model's tokenizer",
            )
        elif texts:
            yield error(
                "vocabulary",
                apart,
                "use a pair with the large model's tokenizer, or let this one score text, which "
                "every method but guided decoding (eft) can: w2s.guide, w2s.TextBridgeScorer",
            )
        else:
            yield error(
                "vocabulary",
                apart,
                "use a pair of the large model's vocabulary, or give all models their tokenizers, "
                "so that the pair can score text",
            )
        return
    if large.module is None or tuned.module is None:
        return
    if tuned.eos_token_ids and large.eos_token_ids and _ends_apart(large, tuned):
        yield warning(
            "eos-differs",
            f"{large.who} ends with {_named(large)}, {tuned.who} with {_named(tuned)}: the pair "
            "has not learned how the large model ends",
            "set the same eos_token_id in both generation configs, or take a pair trained with "
            "the large model's end token",
        )


def _ends_apart(large: Card, tuned: Card) -> bool:
    # A chat model often names several ends; it is enough that the pair knows one of them.
    return not large.eos_token_ids & tuned.eos_token_ids


def _named(card: Card) -> str:
    ids = sorted(card.eos_token_ids)
    if card.tokenizer is None:
        return ", ".join(map(str, ids))
    return ", ".join(f"{card.tokenizer.convert_ids_to_tokens(one)!r} ({one})" for one in ids)


def _vocabulary(one: Card, other: Card) -> str:
    if one.vocab is None or other.vocab is None:
        return ""
    return difference(one.who, one.tokenizer, one.vocab, other.who, other.tokenizer, other.vocab)


def _difference(tuned: Card, untuned: Card) -> Iterator[Finding]:
    if _same(tuned, untuned):
        yield warning(
            "same-weights",
            f"{tuned.who} and {untuned.who} have the same weights, so every score is 0",
            "give the model before and the model after tuning",
        )
        return
    if tuned.module is None or untuned.module is None:
        return
    apart = [
        f"{name} {mine} against {theirs}"
        for name in _SIZE
        if (mine := getattr(tuned.config, name, None))
        != (theirs := getattr(untuned.config, name, None))
    ]
    if apart:
        yield note(
            "pair-differs",
            f"{tuned.who} and {untuned.who} are not one model before and after tuning: "
            f"{', '.join(apart)}",
            "nothing if that is meant; their difference then also has what else sets them apart",
        )


def _same(tuned: Card, untuned: Card) -> bool:
    if tuned.loaded and untuned.loaded:
        return tuned.module is untuned.module or _same_state(tuned.module, untuned.module)
    if tuned.weights is None or untuned.weights is None:
        return False
    return same_weights(tuned.weights, untuned.weights)


def _same_state(one: Any, other: Any) -> bool:
    return all(
        name == twin and mine.shape == theirs.shape and mine.device == theirs.device
        and torch.equal(mine, theirs)
        for (name, mine), (twin, theirs) in zip_longest(
            plain_parameters(one), plain_parameters(other), fillvalue=("", torch.empty(0))
        )
    )  # fmt: skip
