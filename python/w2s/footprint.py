"""What one model takes of memory: its weights, a slot of its KV cache, a token on its way through.

Made from a loaded `Model`, or from a config alone: then the weights are counted on the meta device,
where they have shapes and no memory.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.integrations import sdpa_attention

from w2s.anatomy import text_config
from w2s.checkpoints import resolve_dtype
from w2s.errors import ModelError
from w2s.heads import logit_transform
from w2s.kv import _FIRST_BUCKET, _bucket
from w2s.models import _TOKENS_PER_FORWARD, Model
from w2s_kernels import Head

_LEAF = 4096  # columns that a linear op folds at once
_LINEAR_BUFFER = 1 << 20  # logits a linear op holds at once
_LINEAR_WEIGHTS, _LINEAR_HIDDEN = 1 << 21, 1 << 22  # elements it widens to float32 at once
_COMPOSED = ("gelu_new", "gelu_fast", "gelu_python", "quick_gelu")  # activations of several ops
# transformers 5.23 on: a single query reads grouped keys without repeating them for each head.
_PACKS_GROUPS = hasattr(sdpa_attention, "pack_gqa")


class CacheBytes(NamedTuple):
    """Bytes of a KV cache when it is new and in the end, and what growing takes on top."""

    first: int
    final: int
    growth: int


@dataclass(frozen=True)
class Footprint:
    """Sizes of one model, in bytes unless said otherwise.

    weights: parameters and buffers, each counted once. loaded: they are in memory already.
    layer_slot: key and value of one token in one layer. layers: how many.
    columns: of the logits. width: of a hidden state. item: bytes of an element.
    token: intermediate values of one token in the layer that has most of them.
    eager_heads: attention heads whose scores are stored in full; 0 with SDPA.
    groups: query heads that share a key head. masks: kinds of attention windows.
    copies: of the logits, made on the way through scale and soft cap.
    """

    name: str
    device: torch.device
    weights: int
    loaded: bool
    layer_slot: int
    layers: int
    columns: int
    width: int
    item: int
    token: int
    eager_heads: int
    groups: int
    masks: int
    copies: int

    def cache(self, rows: int, filled: int, longest: int, limit: int) -> "CacheBytes":
        """The KV cache of a search. filled: the slots a row has in the end. longest, limit: as
        `KVCache` gets them, whose growth by doubling this follows."""
        first = min(limit, max(_FIRST_BUCKET, _bucket(longest + 1)))
        capacity, old = first, 0
        while capacity < filled:
            old, capacity = capacity, min(limit, max(_bucket(capacity + 1), 2 * capacity))
        slot = rows * self.layer_slot  # bytes a layer
        # It grows a tensor at a time: only that one's old buffer is there beside its new one.
        return CacheBytes(
            slot * self.layers * first, slot * self.layers * capacity, slot // 2 * old
        )

    def forward(self, rows: int, queries: int, slots: int) -> int:
        """Working memory of one pass of `rows` × `queries` tokens that look at `slots` slots."""
        pairs = rows * queries * slots
        # Boolean, and additive: our own for eager attention, a layer's copy within SDPA.
        additive = self.item * (self.masks if self.eager_heads else 1)
        mask = pairs * (self.masks + 1 + additive)
        scores = pairs * self.eager_heads * (2 * self.item + 4)
        single = queries == 1 and _PACKS_GROUPS and not self.eager_heads
        repeated = 0 if self.groups == 1 or single else rows * slots * self.layer_slot * self.groups
        return rows * queries * self.token + mask + scores + repeated

    def prefill(self, prompts: int, longest: int) -> int:
        """Working memory of reading `prompts` prompts of up to `longest` tokens, in pieces."""
        piece = min(longest, max(16, _TOKENS_PER_FORWARD // prompts))
        return self.forward(prompts, piece, longest) + 16 * prompts * longest

    def logits(self, rows: int) -> int:
        return rows * self.columns * self.item

    def linear(self, tokens: int) -> int:
        """Working memory of the fused head on so many tokens, their hidden states besides."""
        buffer = 4 * min(_LINEAR_BUFFER, min(tokens, 256) * self.columns)
        widened = 0
        if self.item < 4:
            piece = max(64, min(_LEAF, _LINEAR_WEIGHTS // self.width, self.columns))
            states = min(tokens, max(256, _LINEAR_HIDDEN // self.width))
            widened = 4 * self.width * (piece + states)
        leaves = 24 * tokens * math.ceil(self.columns / _LEAF)
        return buffer + widened + leaves + tokens * self.width * self.item


def footprint(source: Any) -> Footprint:
    """Of a `Model`, or of (config, dtype, device): a transformers config, a torch dtype or its
    name, a torch device or its name.

    Raises `ModelError` for something else, and for a config that is of no causal language model.
    """
    if isinstance(source, Model):
        own = [source._head.weight] if isinstance(source._head, Head) else []
        return _measure(source.module, source.name, source.device, own)
    if not isinstance(source, tuple) or len(source) != 3 or not hasattr(source[0], "model_type"):
        raise ModelError(
            f"an estimate takes a Model or (config, dtype, device), got {source!r:.80}"
        )
    config, dtype, device = source
    module = _without_memory(config, resolve_dtype(dtype))
    name = getattr(config, "name_or_path", "") or type(module).__name__
    return _measure(module, name, torch.device(device), [])


def _without_memory(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"no causal language model can be made of this config: {error}") from error


def _measure(module: Any, name: str, device: torch.device, own: Iterable[Tensor]) -> Footprint:
    config = text_config(module)
    if not hasattr(config, "hidden_size") or not hasattr(config, "num_attention_heads"):
        raise ModelError(f"the config of {name} does not say its hidden_size and attention heads")
    item = module.dtype.itemsize
    width = int(config.hidden_size)
    heads = int(config.num_attention_heads)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    # The widest places of a layer: the inner states (gate, its activation, the other branch; some
    # activations are made of several ops), or queries and keys as they are turned; or a norm, which
    # is computed in float32.
    act = str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", ""))
    wide = max((4 if act in _COMPOSED else 3) * inner, (4 * heads + 2 * key_heads) * head_width)
    token = max(item * (3 * width + wide + 2 * head_width), (2 * item + 3 * 4) * width)
    eager = getattr(module.config, "_attn_implementation", None) == "eager"
    softcap, scale = logit_transform(module)
    tensors = {_identity(t): t for t in (*module.parameters(), *module.buffers(), *own)}
    output = module.get_output_embeddings()
    return Footprint(
        name=name,
        device=device,
        weights=sum(tensor.nbytes for tensor in tensors.values()),
        loaded=next(module.parameters()).device.type != "meta",
        layer_slot=2 * key_heads * head_width * item,
        layers=int(config.num_hidden_layers),
        columns=int(getattr(output, "out_features", len(output.weight))),
        width=width,
        item=item,
        token=token,
        eager_heads=heads if eager else 0,
        groups=max(1, heads // key_heads),
        masks=len(set(getattr(config, "layer_types", None) or ("full_attention",))),
        copies=int(scale != 1.0) + 2 * int(softcap != 0.0),
    )


def _identity(tensor: Tensor) -> int:
    """One number for tensors that share memory; on the meta device tied ones are one object."""
    opaque = tensor.is_meta or tensor.is_mkldnn  # without an address
    return id(tensor) if opaque else tensor.untyped_storage().data_ptr()
