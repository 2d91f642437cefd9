"""Models and prompts for the end-to-end comparison; none needs a download.

embedded: SmolLM2-135M and the embedded sentiment pair. gpt2: GPT-2 medium and a pair of GPT-2 small
(the paper's sizes), random. 7b: Llama-7B shapes, random, for a GPU. tiny: for a look at the script.
Each kind is built twice: as `w2s.load` gives models from disk, and `plain`, as transformers does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import w2s
from w2s import embedded
from w2s.models import Model


@dataclass(frozen=True)
class Subjects:
    """The three models and a way to get prompts: `prompts(count, tokens)` gives token ids."""

    large: Model
    tuned: Model
    untuned: Model
    prompts: Callable[[int, int], list[list[int]]]

    @property
    def models(self) -> tuple[Model, Model, Model]:
        return self.large, self.tuned, self.untuned


def _embedded(device: str, dtype: torch.dtype, plain: bool) -> Subjects:
    where: dict[str, Any] = {"device": device, "dtype": dtype, "packed": not plain}
    large = w2s.load(embedded.large(), **where)
    tuned, untuned = (
        w2s.load(folder, tokenizer=large.tokenizer, **where) for folder in embedded.pair()
    )

    def prompts(count: int, tokens: int) -> list[list[int]]:
        found = []
        for review in embedded.reviews().test:
            ids = large.tokenizer(review.text)["input_ids"][:tokens]
            if len(ids) == tokens:
                found.append(ids)
            if len(found) == count:
                return found
        raise ValueError(f"there are only {len(found)} reviews of {tokens} tokens, {count} wanted")

    return Subjects(large, tuned, untuned, prompts)


def _random(config: Any, seed: int, device: str, dtype: torch.dtype, plain: bool) -> Model:
    torch.manual_seed(seed)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return w2s.load((module.eval(), None), packed=not plain)


def _random_subjects(
    large: Any, small: Any, device: str, dtype: torch.dtype, plain: bool
) -> Subjects:
    models = (
        _random(c, seed, device, dtype, plain) for seed, c in enumerate((large, small, small))
    )

    def prompts(count: int, tokens: int) -> list[list[int]]:
        dice = torch.Generator().manual_seed(0)
        ids: list[list[int]] = torch.randint(
            5, large.vocab_size - 1, (count, tokens), generator=dice
        ).tolist()
        return ids

    return Subjects(*models, prompts)


def _gpt2(width: int, layers: int, heads: int, vocab: int = 50257, end: int = 50256) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocab,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=end,
        eos_token_id=end,
    )


BUILDERS: dict[str, Callable[[str, torch.dtype, bool], Subjects]] = {
    "embedded": _embedded,
    "gpt2": lambda *where: _random_subjects(_gpt2(1024, 24, 16), _gpt2(768, 12, 12), *where),
    "7b": lambda *where: _random_subjects(LlamaConfig(), LlamaConfig(), *where),
    "tiny": lambda *where: _random_subjects(
        _gpt2(64, 2, 4, 1000, 3), _gpt2(32, 2, 4, 1000, 3), *where
    ),
}
