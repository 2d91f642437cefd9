"""Which tensor of θ₀ belongs to which of θ₁: by name, by a model prefix, or by a tie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from w2s.expo.rules.configs import Config
from w2s.expo.tasks import StoredTensor

# Families put the body of a model under one of these, and headless saves leave it out.
_PREFIXES = ("model.", "transformer.", "gpt_neox.", "base_model.model.", "module.", "_orig_mod.")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings)\.weight$"
)
_HEAD = re.compile(r"^(\w+\.)?(lm_head|embed_out|output)\.(weight|bias)$")


def is_embedding(name: str) -> bool:
    """Whether a tensor of this name has a row for each input token."""
    return _EMBEDDING.search(name) is not None


def is_head(name: str) -> bool:
    """Whether a tensor of this name has a row for each output token."""
    return _HEAD.search(name) is not None


@dataclass(frozen=True)
class Pair:
    """A tensor of θ₁ and θ₀'s to it, None where θ₀ has none.

    twin: name of θ₁'s tensor that this one is tied to, and must stay equal to; empty for none.
    """

    aligned: StoredTensor
    base: StoredTensor | None
    twin: str = ""


@dataclass
class Pairing:
    """All tensors of θ₁, in its order.

    extra: names that only θ₀ has. prefix: what one side's names begin with and the other's do not.
    borrowed: names of heads that θ₀ does not store because it ties them to its embedding.
    left_out: names of heads that θ₁ does not store because it ties them.
    """

    pairs: list[Pair] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    prefix: str = ""
    borrowed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Names that only θ₁ has."""
        return [pair.aligned.name for pair in self.pairs if pair.base is None]


def pair_up(
    base: Mapping[str, StoredTensor],
    aligned: Mapping[str, StoredTensor],
    configs: tuple[Config, Config],
    same_bytes: Mapping[str, str],
) -> Pairing:
    """Finds θ₀'s tensor to each of θ₁'s.

    configs: of (θ₀, θ₁). same_bytes: names of θ₁ that share another's bytes, and that one's name.
    """
    found = Pairing()
    renamed, found.prefix = _renamed(base, aligned)
    embeddings = [name for name in aligned if is_embedding(name)]
    base_embedding = next((tensor for name, tensor in base.items() if is_embedding(name)), None)
    taken = set()
    for name, tensor in aligned.items():
        mine = base.get(name) or base.get(renamed.get(name, ""))
        if mine is None and base_embedding is not None and _is_tied_head(name, configs[0]):
            mine = base_embedding
            found.borrowed.append(name)
        if mine is not None:
            taken.add(mine.name)
        twin = _twin(name, embeddings, configs[1], same_bytes)
        twin = twin if twin and aligned[twin].shape == tensor.shape else ""
        found.pairs.append(Pair(tensor, mine, twin))
    for name in base:
        if name in taken:
            continue
        left_out = _is_tied_head(name, configs[1]) and embeddings
        (found.left_out if left_out else found.extra).append(name)
    return found


def _is_tied_head(name: str, config: Config) -> bool:
    """Whether a head that is not stored is the embedding; configs that tie may not say so."""
    return name.endswith(".weight") and is_head(name) and config.tied is not False


def _twin(name: str, embeddings: list[str], config: Config, same_bytes: Mapping[str, str]) -> str:
    if is_embedding(name):
        return ""
    stated = config.tied is True and is_head(name) and name.endswith(".weight")
    shared = {one for one in embeddings if same_bytes.get(one, one) == same_bytes.get(name, name)}
    if embeddings and (stated or embeddings[0] in shared):
        return embeddings[0]
    return same_bytes.get(name, "")


def _renamed(
    base: Mapping[str, StoredTensor], aligned: Mapping[str, StoredTensor]
) -> tuple[dict[str, str], str]:
    """θ₁'s names that θ₀ has only with or without a prefix -> θ₀'s names; and that prefix."""
    alone = [name for name in aligned if name not in base]
    free = base.keys() - aligned.keys()
    best: dict[str, str] = {}
    prefix = ""
    for one in _PREFIXES:
        shorter = {name: name.removeprefix(one) for name in alone if name.startswith(one)}
        longer = {name: one + name for name in alone}
        for guess in (shorter, longer):
            hits = {name: other for name, other in guess.items() if other in free}
            if len(hits) > len(best):
                best, prefix = hits, one
    return best, prefix
