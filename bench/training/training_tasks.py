"""Models, batches and single training steps of the speed comparison; none needs a download.

pair: the shape of the embedded pair. smollm2: SmolLM2-135M's width and vocabulary, two layers.
llama3: the same width with Llama 3's vocabulary, one layer. tiny: for a look at the script.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from training_ways import Way
from transformers import LlamaConfig, LlamaForCausalLM

import w2s
from w2s.models import Model
from w2s.train.dpo import DPOConfig
from w2s.train.loop import TrainConfig
from w2s.train.rows import IGNORE
from w2s.train.sft import SFTConfig

KINDS = ("sft", "dpo")
# Steps are run as always, but no weight moves by even half a unit in its last place: all ways and
# all rounds meet the same model.
STILL = 1e-30


@dataclass(frozen=True)
class Shape:
    """A llama with tied embeddings, and its batches as (rows, tokens a row)."""

    vocab: int
    width: int
    layers: int
    heads: int
    inner: int
    sft: tuple[int, int]
    dpo: tuple[int, int]  # rows count both sides of a pair

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )


SHAPES = {
    "pair": Shape(49152, 128, 4, 4, 384, sft=(4, 256), dpo=(16, 72)),
    "smollm2": Shape(49152, 576, 2, 9, 1536, sft=(2, 256), dpo=(8, 64)),
    "llama3": Shape(128256, 576, 1, 9, 1536, sft=(1, 256), dpo=(4, 64)),
    "tiny": Shape(1000, 32, 2, 4, 48, sft=(2, 16), dpo=(4, 12)),
}


@dataclass(frozen=True)
class Task:
    """One kind of training on one shape: `loss(way)` is the differentiable loss of its batch."""

    shape: str
    kind: str
    policy: Model
    config: TrainConfig
    tokens: int  # that a step reads
    targets: int  # of them counted
    loss: Callable[[Way], Tensor]


def make_task(shape: str, kind: str, steps: int, seed: int = 0) -> Task:
    """The task for a run of `steps` steps; the same arguments give the same numbers.

    In DPO the first quarter of a row is its prompt, and the reference is the policy with a little
    noise on its weights, so that margins are not 0.
    """
    made = SHAPES[shape]
    torch.manual_seed(seed)
    policy = w2s.load((LlamaForCausalLM(made.config()), None), device="cpu")
    policy.module.train()
    rows, length = getattr(made, kind)
    ids = torch.randint(made.vocab, (rows, length + 1))
    ids, target = ids[:, :-1], ids[:, 1:].clone()  # [B, T] both
    if kind == "sft":
        sft_config = SFTConfig(lr=STILL, batch=rows, length=length, steps=steps)
        count = target.numel()
        return Task(shape, kind, policy, sft_config, ids.numel(), count,
                    lambda way: way.sft_loss(policy, ids, target))  # fmt: skip
    target[:, : length // 4] = IGNORE
    reference = w2s.load((copy.deepcopy(policy.module).eval(), None))
    with torch.no_grad():
        for parameter in reference.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    config = DPOConfig(lr=STILL, batch=rows // 2, length=length, steps=steps)
    count = int((target != IGNORE).sum())
    return Task(shape, kind, policy, config, ids.numel(), count,
                lambda way: way.dpo_loss(policy, reference, ids, target, config))  # fmt: skip
