"""Tiny models for the decoder's tests: random transformers models, and one read from a table."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

VOCAB = 64
EOS = 3
# Of most families, by the names that they share.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}


def tiny_model(config: Any, seed: int) -> Any:
    """A random causal LM of the config's family, in fp32, the same for the same seed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # spread the logits: a fresh model's are all alike
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim > 1 else parameter
    return model


def llama_config(**settings: Any) -> LlamaConfig:
    return LlamaConfig(**{**SHAPE, **settings})


def gpt2_config(**settings: Any) -> GPT2Config:
    defaults: dict[str, Any] = {
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 1,
        "eos_token_id": EOS,
    }
    return GPT2Config(**{**defaults, **settings})


def word_tokenizer(vocab: int = VOCAB, prefix: str = "w") -> PreTrainedTokenizerFast:
    """Words w0, w1, … separated by blanks; id `EOS` is the end token."""
    words = {f"{prefix}{i}": i for i in range(vocab)}
    words["</s>"] = words.pop(f"{prefix}{EOS}")
    words["<unk>"] = words.pop(f"{prefix}0")
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


class TableModel(nn.Module):
    """A causal LM whose logits are a row of a table, chosen by all tokens and positions so far.

    The prefix is summed up through the KV cache and the 4-D mask, as a real model's attention
    would, but in whole numbers: a wrong slot, position or mask changes the row, and nothing else
    in a batch can. `rows[prefix]` of `table` [M, V].
    """

    def __init__(self, table: Tensor, eos: int | None = EOS) -> None:
        super().__init__()
        size, vocab = table.shape
        self.config = PretrainedConfig(vocab_size=vocab, eos_token_id=eos, num_hidden_layers=1)
        self.model = _TableBody(size)
        self.lm_head = nn.Linear(size, vocab, bias=False)
        self.lm_head.weight.data = table.T.contiguous()
        self.dtype = table.dtype

    def get_decoder(self) -> nn.Module:
        return self.model

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        hidden = self.model(input_ids, **kwargs).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden))


class _TableBody(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutputWithPast:
        rows, columns = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(columns).expand(rows, -1)
        if attention_mask is None:
            attention_mask = torch.ones(rows, 1, columns, columns).tril().bool()
        worth = prefix_worth(input_ids, position_ids, self.size)  # [rows, Q]
        states = worth.float()[:, None, :, None]  # [rows, 1, Q, 1]
        if past_key_values is not None:
            states, _ = past_key_values.update(states, states, 0)  # [rows, 1, slots, 1]
        total = (attention_mask * states.transpose(2, 3)).sum(-1)[:, 0]  # [rows, Q]
        row = total.long() % self.size
        hidden = nn.functional.one_hot(row, self.size).float()
        return BaseModelOutputWithPast(last_hidden_state=hidden)


def prefix_worth(token: Any, position: Any, size: int) -> Any:
    """What a token at a position adds to the row of its prefix; takes ints and tensors."""
    return (token * (2 * position + 1) + position) % size


def table_row(prefix: list[int], size: int) -> int:
    """The row of the table that follows these tokens."""
    return sum(prefix_worth(token, i, size) for i, token in enumerate(prefix)) % size


def random_table(seed: int, size: int = 97, vocab: int = VOCAB) -> Tensor:
    return torch.randn(size, vocab, generator=torch.Generator().manual_seed(seed)) * 2
