"""`w2s expo` beside mergekit on the same YAML file: the same tensors, equal to 1e-6 in fp32.

Both commands run as their users run them, on a pair of small llamas: mergekit computes in fp32, we
in float64 with one rounding, so both are within a few units in the last place of what is exact.
"""

from pathlib import Path

import pytest
import torch
import yaml
from mergekit.scripts.run_yaml import main as mergekit
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from w2s.cli import main as w2s

TOLERANCE = 1e-6


def save_pair(root, dtype, *, tied=False):
    """θ₀ and θ₁ = θ₀ and a little noise, of a few shards each; norms are about 1, as trained."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name in ("base", "aligned"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-2)
        model.to(dtype).save_pretrained(root / name, max_shard_size="150KB")
        model.float()
    return root / "base", root / "aligned"


def task_arithmetic(base, aligned, alpha):
    """θ₀ + (1 + α)(θ₁ − θ₀)."""
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(aligned), "parameters": {"weight": 1 + alpha}}],
        "dtype": "float32",
    }


def linear(base, aligned, alpha):
    """(1 + α)θ₁ − αθ₀; the weights add up to 1, so that to normalise them changes nothing."""
    return {
        "merge_method": "linear",
        "models": [
            {"model": str(aligned), "parameters": {"weight": 1 + alpha}},
            {"model": str(base), "parameters": {"weight": -alpha}},
        ],
        "dtype": "float32",
    }


def tensors(folder):
    """Every tensor of a checkpoint by its name."""
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(file))
    return found


def exact(base, aligned, alpha):
    """θ₁ + α(θ₁ − θ₀) in float64."""
    theta0, theta1 = tensors(base), tensors(aligned)
    return {
        name: value.double() + alpha * (value.double() - theta0[name].double())
        for name, value in theta1.items()
    }


def farthest(one, other):
    """The largest |difference| of two checkpoints, which must hold the same names and shapes."""
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def both(tmp_path, recipe):
    """The two results of one YAML file: mergekit's and ours."""
    file = tmp_path / "recipe.yml"
    file.write_text(yaml.safe_dump(recipe))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    mergekit.main([str(file), str(theirs), "--quiet"], standalone_mode=False)
    assert w2s(["expo", "--config", str(file), "--out", str(ours)]) == 0
    return tensors(theirs), tensors(ours)


@pytest.mark.parametrize("alpha", [0.3, 2.5, -0.5])
@pytest.mark.parametrize("recipe", [task_arithmetic, linear])
def test_fp32_tensors_are_those_of_mergekit(tmp_path, recipe, alpha):
    base, aligned = save_pair(tmp_path, torch.float32)
    theirs, ours = both(tmp_path, recipe(base, aligned, alpha))
    assert farthest(ours, theirs) <= TOLERANCE
    wanted = exact(base, aligned, alpha)
    assert farthest(ours, wanted) <= farthest(theirs, wanted)


@pytest.mark.parametrize("recipe", [task_arithmetic, linear])
def test_fp32_results_of_bf16_checkpoints_are_those_of_mergekit(tmp_path, recipe):
    base, aligned = save_pair(tmp_path, torch.bfloat16)
    theirs, ours = both(tmp_path, recipe(base, aligned, 0.3))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    assert farthest(ours, theirs) <= TOLERANCE


def test_tied_weights_are_written_as_mergekit_writes_them(tmp_path):
    base, aligned = save_pair(tmp_path, torch.float32, tied=True)
    theirs, ours = both(tmp_path, task_arithmetic(base, aligned, 0.3))
    assert farthest(ours, theirs) <= TOLERANCE


def test_a_normalised_linear_merge_is_that_of_mergekit(tmp_path):
    base, aligned = save_pair(tmp_path, torch.float32)
    recipe = linear(base, aligned, 0.3)
    recipe["parameters"] = {"normalize": True}
    for model in recipe["models"]:
        model["parameters"]["weight"] *= 2
    theirs, ours = both(tmp_path, recipe)
    assert farthest(ours, theirs) <= TOLERANCE
