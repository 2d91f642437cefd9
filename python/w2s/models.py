"""`load`: any transformers causal LM, ready for a search."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from w2s.adapters import require_weights_only, view
from w2s.anatomy import context_length, eos_tokens, layer_windows, text_config, valid_vocab
from w2s.checkpoints import from_pretrained, resolve_dtype
from w2s.errors import HeadError, ModelError, PromptError
from w2s.heads import extract_head, head_product, logit_transform
from w2s.kv import KVCache
from w2s.packing import pack
from w2s.probe import probe
from w2s.prompts import Prompt, PromptStyle
from w2s_kernels import Head

# Tokens a forward takes at once: bounds its memory, and is long enough to be efficient.
_TOKENS_PER_FORWARD = 4096


@dataclass(eq=False)
class Model:
    """A causal LM with its tokenizer and prompt style. Made by `load`.

    module: the transformers model. backbone: the part of it that gives hidden states.
    tokenizer: None for a model that only takes token ids.
    columns: width of the logits. vocab: ids below this stand for tokens, the rest is padding.
    eos_token_ids: what ends a response. context: positions the model has, or None.
    """

    module: Any
    tokenizer: Any
    style: PromptStyle
    backbone: Any
    columns: int
    vocab: int
    eos_token_ids: frozenset[int]
    context: int | None
    layer_windows: dict[str, int | None]
    output: Any = field(repr=False)
    softcap: float
    logit_scale: float
    _head: Head | HeadError = field(repr=False)

    @property
    def name(self) -> str:
        """What to call the model in messages."""
        return getattr(self.module.config, "name_or_path", "") or type(self.module).__name__

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device  # type: ignore[no-any-return]

    @property
    def head(self) -> Head:
        """The output head for the fused ops; `HeadError` when the model has no plain one."""
        if isinstance(self._head, HeadError):
            raise self._head
        return self._head

    def encode(self, prompts: Sequence[Prompt], new_tokens: int) -> list[list[int]]:
        """Token ids of each prompt; `PromptError` when one does not leave room for `new_tokens`."""
        encoded = []
        for index, prompt in enumerate(prompts):
            ids = self.style.encode(prompt, self.tokenizer, f"prompt {index}")
            if self.context is not None and len(ids) + new_tokens > self.context:
                raise PromptError(
                    f"prompt {index} has {len(ids)} tokens, and with {new_tokens} new ones that is "
                    f"more than the {self.context} positions of {self.name}; shorten the prompt or "
                    "lower max_new_tokens"
                )
            if not all(0 <= token < self.vocab for token in ids):
                raise PromptError(
                    f"prompt {index} has token ids outside [0, {self.vocab}) of {self.name}"
                )
            encoded.append(ids)
        return encoded

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of response tokens, without special tokens; empty for a model without tokenizer."""
        if self.tokenizer is None:
            return ""
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def new_cache(
        self, lengths: Sequence[int], rows_per_prompt: int, limit: int, *, ragged: bool = False
    ) -> KVCache:
        """An empty cache for prompts of these lengths; see `KVCache`."""
        eager = getattr(self.module.config, "_attn_implementation", None) == "eager"
        return KVCache(
            lengths,
            rows_per_prompt,
            limit,
            self.device,
            self.layer_windows,
            additive=self.module.dtype if eager else None,
            ragged=ragged,
        )

    def hidden(self, ids: Tensor, position: Tensor, slots: int, cache: KVCache) -> Tensor:
        """Last hidden states [rows, Q, D] of ids [rows, Q] at position [rows, Q], all < slots."""
        mask = cache.advance(position, slots)
        output = self.backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits [N, V] from hidden [N, D], in the model's dtype."""
        logits = head_product(self.output, hidden)
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor | None:
        """Reads each prompt once and copies its slots to its pool of rows.

        Returns the hidden state [P, D] of each prompt's last token; None when all are empty.
        Long prompts go through the model in pieces. Prompts are padded on the right: a padded slot
        lies beyond its row's positions, and is overwritten before any position reaches it.
        """
        longest = max(map(len, prompts))
        if longest == 0:
            return None
        device = self.device
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for number, prompt in enumerate(prompts):
            ids[number, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.long)
        ids = ids.to(device)
        position = torch.arange(longest, device=device).expand(len(prompts), -1)
        last = torch.tensor([max(len(prompt) - 1, 0) for prompt in prompts], device=device)  # [P]
        piece = max(16, _TOKENS_PER_FORWARD // len(prompts))
        found: Tensor | None = None
        cache.begin_prefill()
        for begin in range(0, longest, piece):
            end = min(begin + piece, longest)
            hidden = self.hidden(ids[:, begin:end], position[:, begin:end], end, cache)  # [P, Q, D]
            here = hidden[
                torch.arange(len(prompts), device=device), (last - begin).clamp(0, end - begin - 1)
            ]  # [P, D]
            inside = ((last >= begin) & (last < end))[:, None]
            found = here if found is None else torch.where(inside, here, found)
        cache.end_prefill()
        return found


def load(
    source: Any,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    template: str | None = None,
    system: str = "",
    chat_template: str | os.PathLike[str] | None = None,
    chat: bool = False,
    tokenizer: Any = None,
    adapter: str | bool | None = None,
    packed: bool | None = None,
    **kwargs: Any,
) -> Model:
    """Loads a causal LM for the decoder.

    source: a folder or hub id (of a model, or of an adapter for peft), a `.gguf` file, a
      `(model, tokenizer)` tuple (the tokenizer may be None: prompts are then token ids), or a
      `Model` to give another prompt style.
    device: "auto" is a CUDA device when there is one; a model given as an object stays where it is.
    dtype: a torch dtype or its name; "auto" is the checkpoint's own on a CUDA device and float32 on
      a CPU.
    template, system, chat_template, chat: how this model sees a prompt; see `PromptStyle`.
    tokenizer: one to use in place of the source's own, for a folder that brings none.
    adapter: for a model with peft's adapters: None takes it as it is; a name or False gives a
      second model over the same weights, with that adapter alone or with none.
    packed: whether linear layers on a CPU keep their weights in the processor's own order, which is
      up to twice as fast (`w2s.packing`). None packs what is loaded here; a model given as an
      object is packed, in place, only when this is True.
    kwargs: handed on to transformers' `from_pretrained` (`revision`, `device_map`,
      `attn_implementation`, `quantization_config`, `trust_remote_code`, off by default).

    Raises `ModelError` for what cannot be loaded or run, `PromptError` for a bad template.
    """
    style = PromptStyle(
        template=template,
        chat=chat,
        system=system,
        chat_template=None if chat_template is None else os.fspath(chat_template),
    )
    own: Any = None
    if isinstance(source, Model):
        module, own = source.module, source.tokenizer
    elif isinstance(source, tuple) and len(source) == 2:
        module, own = source
    elif isinstance(source, str | os.PathLike):
        module, own = from_pretrained(os.fspath(source), device, dtype, tokenizer, kwargs)
        return _make(_adapted(module, adapter), own, style, packed is not False)
    elif hasattr(source, "get_output_embeddings"):
        module = source
    else:
        raise ModelError(
            f"a model is a path, a hub id, a .gguf file or (model, tokenizer); got {source!r:.80}"
        )
    if kwargs:
        raise ModelError(
            f"{', '.join(sorted(kwargs))}: these go to from_pretrained, but the model is already "
            "loaded; leave them out"
        )
    if device != "auto":
        module = module.to(device)
    if dtype != "auto":
        module = module.to(resolve_dtype(dtype))
    spoken = own if tokenizer is None else tokenizer
    return _make(_adapted(module, adapter), spoken, style, bool(packed))


def _adapted(module: Any, adapter: str | bool | None) -> Any:
    return module if adapter is None or adapter is True else view(module, adapter)


def as_model(source: Any) -> Model:
    """`source` itself when it is a `Model`, else what `load` makes of it."""
    return source if isinstance(source, Model) else load(source)


def _make(module: Any, tokenizer: Any, style: PromptStyle, packed: bool) -> Model:
    module.eval()
    require_weights_only(module)
    config = text_config(module)
    windows = layer_windows(module, config)
    get_decoder = getattr(module, "get_decoder", None)
    backbone = get_decoder() if get_decoder is not None else module.base_model
    if backbone is module or module.get_output_embeddings() is None:
        raise ModelError(
            f"{type(module).__name__} has no head apart from its body; the decoder needs a causal "
            "language model such as AutoModelForCausalLM gives"
        )
    implementation = getattr(module.config, "_attn_implementation", None)
    if implementation not in (None, "sdpa", "eager"):
        raise ModelError(
            f"{type(module).__name__} uses attn_implementation={implementation!r}, which takes no "
            "4-D mask; load it with attn_implementation='sdpa'"
        )
    output = module.get_output_embeddings()
    columns = int(getattr(output, "out_features", None) or len(output.weight))
    vocab = valid_vocab(module, columns, tokenizer)
    softcap, logit_scale = logit_transform(module)
    head: Head | HeadError
    try:
        head = extract_head(module, vocab)
    except HeadError as error:  # a quantized head can still write; only a pair needs the weight
        head = error
    if packed:
        pack(module, keep=output)  # the fused ops read the head's weight as it is
    model = Model(
        module=module,
        tokenizer=tokenizer,
        style=style,
        backbone=backbone,
        columns=columns,
        vocab=vocab,
        eos_token_ids=eos_tokens(module, config, tokenizer),
        context=context_length(config),
        layer_windows=windows,
        output=output,
        softcap=softcap,
        logit_scale=logit_scale,
        _head=head,
    )
    probe(model)
    return model
