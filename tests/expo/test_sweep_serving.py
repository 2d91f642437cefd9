"""A model that serves α in place holds what `w2s expo` would write, bit for bit."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import w2s
from support.tiny import word_tokenizer
from w2s.errors import ExpoError
from w2s.expo.recipe import Recipe
from w2s.expo.run import extrapolate_checkpoint
from w2s.expo.survey import check_recipe
from w2s.expo.sweep.serving import Served
from w2s_kernels import extrapolate

ALPHAS = (0.3, 30.0, -1.0, 0.0)


def save(folder, seed, dtype, **settings):
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 320, "hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 3,
        "max_position_embeddings": 64,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**(shape | settings))).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def served(tmp_path):
    """Serves a pair of these dtypes in another; also says what θ₁ and θ₀ hold."""

    def make(stored=torch.bfloat16, dtype="float32", grown=0, packed=None, **settings):
        base = save(tmp_path / "base", 1, stored, **settings)
        larger = {"vocab_size": 320 + grown} if grown else {}
        aligned = save(tmp_path / "aligned", 2, stored, **(settings | larger))
        survey = check_recipe(Recipe(str(base), str(aligned), 1.0))
        tokenizer = word_tokenizer(320 + grown)
        model = w2s.load(aligned, dtype=dtype, tokenizer=tokenizer, packed=packed)
        files = (load_file(one / "model.safetensors") for one in (aligned, base))
        return Served(model, survey.tasks), *files

    return make


def expected(theta1, theta0, alpha, dtype):
    rows = len(theta0)
    out = theta1.to(dtype, copy=True)
    out[:rows] = extrapolate(theta1[:rows], theta0, alpha, out_dtype=dtype)
    return out


def bits(tensor):
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(width)


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}, {"grown": 7}], ids=str)
@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(torch.bfloat16, "float32"), (torch.float32, "float32"), (torch.float32, "bfloat16")],
)
def test_a_served_alpha_is_what_would_be_written_bit_for_bit(served, stored, dtype, settings):
    one, theta1, theta0 = served(stored, dtype, **settings)
    for alpha in ALPHAS:
        one.set(alpha)
        assert one.alpha == alpha
        state = one.model.module.state_dict()  # of packed layers the plain weights
        for name, value in theta1.items():
            wanted = expected(value, theta0[name], alpha, getattr(torch, dtype))
            assert torch.equal(bits(state[name]), bits(wanted)), (name, alpha)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_served_alpha_is_the_checkpoint_that_is_written(served, tmp_path, dtype):
    one, *_ = served(torch.bfloat16, dtype, grown=7, tie_word_embeddings=True)
    recipe = Recipe(str(tmp_path / "base"), str(tmp_path / "aligned"), 0.3, dtype=dtype)
    extrapolate_checkpoint(recipe, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    one.set(0.3)
    state = one.model.module.state_dict()
    assert all(torch.equal(bits(state[name]), bits(value)) for name, value in written.items())


@pytest.mark.parametrize("packed", [True, False])
def test_a_served_model_writes_what_one_loaded_from_disk_writes(served, packed, tmp_path):
    one, theta1, theta0 = served(torch.float32, packed=packed)
    one.set(3.0)
    folder = save(tmp_path / "written", 2, torch.float32)
    values = {name: extrapolate(value, theta0[name], 3.0) for name, value in theta1.items()}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = w2s.load(folder, tokenizer=one.model.tokenizer, packed=packed)
    plan = w2s.SearchPlan.bon(3, max_new_tokens=12, seed=5)
    prompts = ["w5 w6", "w7"]
    results = [
        w2s.search(prompts, w2s.LocalProposer(model, plan), None, plan)
        for model in (one.model, loaded)
    ]
    assert [r.best.tokens for r in results[0]] == [r.best.tokens for r in results[1]]


def test_no_copy_of_either_checkpoint_is_held(served):
    one, theta1, theta0 = served(torch.bfloat16)
    in_files = sum(value.nbytes for values in (theta1, theta0) for value in values.values())
    largest = max(value.nbytes for value in theta1.values())
    assert one.bytes.files == in_files
    assert one.bytes.model == in_files  # two checkpoints in bf16, one model in fp32
    assert one.bytes.buffers == 2 * largest


def test_a_model_that_holds_something_else_is_refused(tmp_path):
    base, aligned = (save(tmp_path / name, 1, torch.float32) for name in ("base", "aligned"))
    survey = check_recipe(Recipe(str(base), str(aligned), 1.0))
    model = w2s.load(aligned, tokenizer=word_tokenizer(320))
    with torch.no_grad():
        model.module.model.norm.weight[3] += 1
    with pytest.raises(ExpoError, match=r"model\.norm\.weight of .* is not what transformers"):
        Served(model, survey.tasks)


def test_a_parameter_without_a_tensor_is_named(tmp_path):
    base, aligned = (save(tmp_path / name, 1, torch.float32) for name in ("base", "aligned"))
    survey = check_recipe(Recipe(str(base), str(aligned), 1.0))
    model = w2s.load(aligned, tokenizer=word_tokenizer(320))
    tasks = [task for task in survey.tasks if "up_proj" not in task.aligned.name]
    with pytest.raises(ExpoError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: transformers"):
        Served(model, tasks)


def test_a_file_that_fails_leaves_no_alpha_said_to_be_served(served, monkeypatch):
    one, *_ = served(torch.float32)

    def fail(stored, side):
        raise ExpoError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(one, "_read", fail)
        with pytest.raises(ExpoError, match="gone"):
            one.set(0.3)
    assert math.isnan(one.alpha)
    one.set(0.0)
    assert one.alpha == 0.0
