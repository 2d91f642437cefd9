"""When a response ends: one table over (state, token), read on the device.

The stop strings become an automaton over bytes (Aho-Corasick), its transitions are followed through
every token's bytes once, and a search then needs one look-up a token and no decoding.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from w2s.errors import SearchError

# The first two states are absorbing: a row in one of them has ended.
ENDED_BY_EOS = 0
ENDED_BY_STOP = 1
START = 2


def stop_table(
    vocab: int, eos: Iterable[int], stop: Sequence[str], tokenizer: Any, device: torch.device
) -> Tensor:
    """next[state, token] as int64 [S, vocab]; a row starts in `START`, and has ended below it.

    Raises `SearchError` for stop strings without a tokenizer.
    """
    if stop:
        if tokenizer is None:
            raise SearchError("stop strings need a tokenizer; load the model as (model, tokenizer)")
        table = _follow_tokens(_byte_automaton(stop), token_bytes(tokenizer, vocab))
        # A special token adds no bytes to a text; given by name, it stops as the token it is.
        special = _special_tokens(tokenizer)
        for token in (special[text] for text in stop if text in special):
            if token < vocab:
                table[START:, token] = ENDED_BY_STOP
    else:
        table = np.full((START + 1, vocab), START, dtype=np.int64)
    table[ENDED_BY_EOS] = ENDED_BY_EOS
    table[ENDED_BY_STOP] = ENDED_BY_STOP
    for token in eos:
        if token < vocab:
            table[START:, token] = ENDED_BY_EOS
    return torch.from_numpy(table).to(device)


def _byte_automaton(stop: Sequence[str]) -> np.ndarray[Any, Any]:
    """Aho-Corasick over the strings' UTF-8 bytes: delta[state, byte], shifted so that the root is
    `START` and every accepting state is `ENDED_BY_STOP`."""
    children: list[dict[int, int]] = [{}]
    accepts = [False]
    for text in stop:
        node = 0
        for byte in text.encode():
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                accepts.append(False)
            node = children[node][byte]
        accepts[node] = True
    delta = np.zeros((len(children), 256), dtype=np.int64)
    fail = [0] * len(children)
    queue = deque([0])
    while queue:  # breadth first, so that a node's failure state is complete before the node
        node = queue.popleft()
        if node:
            accepts[node] = accepts[node] or accepts[fail[node]]
            delta[node] = delta[fail[node]]
        for byte, child in children[node].items():
            fail[child] = int(delta[fail[node], byte]) if node else 0
            delta[node, byte] = child
            queue.append(child)
    renamed = np.where(np.array(accepts), ENDED_BY_STOP, np.arange(len(children)) + START)
    automaton = np.zeros((len(children) + START, 256), dtype=np.int64)
    automaton[START:] = renamed[delta]
    automaton[ENDED_BY_STOP] = ENDED_BY_STOP
    return automaton


def _follow_tokens(
    automaton: np.ndarray[Any, Any], tokens: Sequence[bytes]
) -> np.ndarray[Any, Any]:
    longest = max(map(len, tokens), default=0)
    length = np.array([len(token) for token in tokens])
    padded = np.zeros((len(tokens), longest), dtype=np.int64)
    for row, token in enumerate(tokens):
        padded[row, : len(token)] = np.frombuffer(token, dtype=np.uint8)
    state = np.repeat(np.arange(len(automaton))[:, None], len(tokens), axis=1)  # [S, V]
    for column in range(longest):
        live = np.flatnonzero(length > column)
        state[:, live] = automaton[state[:, live], padded[live, column]]
    return state


def token_bytes(tokenizer: Any, vocab: int) -> list[bytes]:
    """The bytes that each of `vocab` token ids adds to a text; special tokens add none."""
    ids = range(min(vocab, len(tokenizer)))
    special = set(_special_tokens(tokenizer).values())
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    unicode_bytes = _byte_alphabet()
    byte_level = _is_byte_level(tokenizer)
    found: list[bytes] = []
    for token, piece in zip(ids, pieces, strict=True):
        if piece is None or token in special:
            found.append(b"")
        elif byte_level and all(letter in unicode_bytes for letter in piece):
            found.append(bytes(unicode_bytes[letter] for letter in piece))
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            found.append(bytes([int(piece[3:5], 16)]))
        else:
            found.append(piece.replace("▁", " ").encode())
    return found + [b""] * (vocab - len(found))


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens that `decode(skip_special_tokens=True)` leaves out, by their text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {str(token): number for number, token in added.items() if token.special}
    for text in tokenizer.all_special_tokens:
        found[text] = tokenizer.convert_tokens_to_ids(text)
    return found


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in repr(backend.decoder)


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones are themselves, the rest follow 255."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
