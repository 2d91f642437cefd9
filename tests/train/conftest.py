"""A causal LM and a tokenizer so small that training them takes a second."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["<end>", "<unk>", "good", "bad", "a", "film", "the", "was", "and", "plot", "fine", "dull"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer llama with one token a word; `<end>` ends a row."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    vocab = {word: index for index, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Any:
    """Writes rows (dicts as JSON, strings as they are) to a fresh JSONL file."""

    def write(*rows: object) -> Path:
        path = tmp_path / "rows.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write
