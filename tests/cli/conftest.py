"""Tiny random models with their own tokenizer, saved as folders: nothing is downloaded."""

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from w2s.cli import main

CONTEXT = 64


def save_tokenizer(folder, end="<end>"):
    """A byte-level tokenizer without merges: a token a byte, and an end token."""
    letters = sorted(ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([end, *letters])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=end
    ).save_pretrained(folder)
    return len(vocab)


def save_model(folder, seed, *, tokenizer=True, end="<end>"):
    """A two-layer llama with random weights."""
    folder.mkdir()
    vocab = save_tokenizer(folder, end) if tokenizer else 257
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT,
        initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These models are far too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """large, tuned, untuned (which brings no tokenizer) and a stranger (another tokenizer)."""
    root = tmp_path_factory.mktemp("models")
    return SimpleNamespace(
        large=save_model(root / "large", 1),
        tuned=save_model(root / "tuned", 2),
        untuned=save_model(root / "untuned", 3, tokenizer=False),
        stranger=save_model(root / "stranger", 4, end="<other-end>"),
    )


@pytest.fixture
def w2s(capsys):
    """Runs a command in this process: its exit code, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return SimpleNamespace(code=code, out=output.out, err=output.err)

    return run


@pytest.fixture
def search(w2s, folders, tmp_path):
    """Runs `w2s search` over the tiny models on these input lines."""

    def run(
        lines, *options, name="in.jsonl",
        large=folders.large, pair=(folders.tuned, folders.untuned),
    ):  # fmt: skip
        source = tmp_path / name
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        source.write_text("".join(line + "\n" for line in text), encoding="utf-8")
        return w2s(
            "search", source, "--large", large, *(["--pair", *pair] if pair else []),
            "--max-new-tokens", 6, *options,
        )  # fmt: skip

    return run
