"""A pair of random checkpoints on disk, shaped like Llama 3.2 1B: tied, bf16, sharded."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SPREAD, DELTA = 0.02, 1e-4  # standard deviations of θ₀ and of θ₁ − θ₀, as a short DPO leaves them
_ROWS = 8192  # of a matrix made at a time
_SHARD = 1_000_000_000  # bytes


@dataclass(frozen=True)
class Size:
    """Of the models; `heads` of 64, a quarter as many for keys and values."""

    layers: int
    vocab: int = 128256
    hidden: int = 2048
    inner: int = 8192

    @property
    def heads(self) -> int:
        return self.hidden // 64

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of a checkpoint, in the order in which they are written."""
        keys = self.hidden // 4
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            within = f"model.layers.{layer}."
            found |= {
                within + "self_attn.q_proj.weight": (self.hidden, self.hidden),
                within + "self_attn.k_proj.weight": (keys, self.hidden),
                within + "self_attn.v_proj.weight": (keys, self.hidden),
                within + "self_attn.o_proj.weight": (self.hidden, self.hidden),
                within + "mlp.gate_proj.weight": (self.inner, self.hidden),
                within + "mlp.up_proj.weight": (self.inner, self.hidden),
                within + "mlp.down_proj.weight": (self.hidden, self.inner),
                within + "input_layernorm.weight": (self.hidden,),
                within + "post_attention_layernorm.weight": (self.hidden,),
            }
        return found | {"model.norm.weight": (self.hidden,)}

    @property
    def nbytes(self) -> int:
        """Of one checkpoint's tensors."""
        return sum(2 * math.prod(shape) for shape in self.shapes().values())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max(2 * math.prod(shape) for shape in self.shapes().values())

    @staticmethod
    def of_gigabytes(least: float) -> "Size":
        """The fewest layers that make a checkpoint of at least so many GB (10⁹ bytes)."""
        one, two = Size(1).nbytes, Size(2).nbytes
        return Size(1 + max(0, math.ceil((least * 1e9 - one) / (two - one))))


def make_pair(folder: Path, size: Size) -> tuple[Path, Path]:
    """Writes folder/base and folder/aligned, or takes those that an earlier run kept."""
    folders = folder / "base", folder / "aligned"
    done = folder / "pair.json"
    wanted = json.dumps(asdict(size))
    if done.exists() and done.read_text() == wanted:
        return folders
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
        (each / "config.json").write_text(json.dumps(_config(size), indent=1))
    shards = list(_shards(size))
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        pair = {name: _tensors(size.shapes()[name], name) for name in names}
        for which, each in enumerate(folders):
            tensors = {name: both[which] for name, both in pair.items()}
            save_file(tensors, each / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": size.nbytes}, "weight_map": weight_map}
    for each in folders:
        (each / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    done.write_text(wanted)
    return folders


def _shards(size: Size) -> Iterator[list[str]]:
    names: list[str] = []
    taken = 0
    for name, shape in size.shapes().items():
        nbytes = 2 * math.prod(shape)
        if names and taken + nbytes > _SHARD:
            yield names
            names, taken = [], 0
        names.append(name)
        taken += nbytes
    yield names


def _tensors(shape: tuple[int, ...], name: str) -> tuple[Tensor, Tensor]:
    """θ₀ and θ₁ of one name; the same in every run."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    pair = torch.empty(shape, dtype=torch.bfloat16), torch.empty(shape, dtype=torch.bfloat16)
    for first in range(0, shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        theta0 = torch.randn(pair[0][rows].shape, generator=generator).mul_(SPREAD)
        if len(shape) == 1:
            theta0 += 1.0
        pair[0][rows] = theta0
        # The neighbours' θ₀ make as good a noise as new numbers, which would take as long again.
        pair[1][rows] = theta0 + theta0.roll(1) * (DELTA / SPREAD)
    return pair


def _config(size: Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "vocab_size": size.vocab, "hidden_size": size.hidden, "intermediate_size": size.inner,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "head_dim": 64,
        "num_key_value_heads": size.heads // 4, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
