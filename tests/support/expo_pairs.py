"""Small checkpoints before and after a training, as folders, for the tests of `w2s.expo`."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = 48


def llama(folder: Path, seed: int = 0, **settings) -> Path:
    """A two-layer llama with random weights, in float32 unless `dtype` says otherwise."""
    dtype = settings.pop("dtype", torch.float32)
    shape = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**(shape | settings))).to(dtype).save_pretrained(folder)
    return folder


def train(base: Path, folder: Path, seed: int = 1, scale: float = 1e-3) -> Path:
    """A copy of a checkpoint with every tensor moved a little, as training would."""
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    edit(base, lambda tensors: {
        name: (one + scale * torch.randn(one.shape, generator=generator)).to(one.dtype)
        for name, one in tensors.items()
    }, folder)  # fmt: skip
    return folder


def edit(source: Path, change, folder: Path | None = None) -> None:
    """Writes the tensors of `source` as `change` returns them, in place or into `folder`."""
    tensors = change(load_file(source / "model.safetensors"))
    save_file(tensors, (folder or source) / "model.safetensors", metadata={"format": "pt"})


def set_config(folder: Path, **values) -> None:
    """Sets keys of config.json; None takes a key out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def word_tokenizer(folder: Path, words: list[str]) -> None:
    """A tokenizer whose id of a word is its place in the list."""
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0])
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token=words[0], eos_token=words[1]
    ).save_pretrained(folder)


def words(count: int = VOCAB) -> list[str]:
    return [f"w{number}" for number in range(count)]


def codes(survey) -> list[tuple[str, str]]:
    """(level, code) of each finding."""
    return [(finding.level, finding.code) for finding in survey.findings]


def the(survey, code: str):
    """The one finding of this code."""
    (finding,) = [one for one in survey.findings if one.code == code]
    return finding
