"""LoRA adapters: what peft makes of a scaled one, and of a merged one, is W₀ + (1 + α)·s·BA."""

import json
from fractions import Fraction

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from w2s.errors import ExpoError
from w2s.expo.adapted import AdaptedTensor, load
from w2s.expo.adapter import adapter_tasks, merged_tasks, merged_view, scaled_config
from w2s.expo.checkpoint import open_checkpoint
from w2s.expo.lora import open_adapter
from w2s.expo.recipe import Recipe
from w2s.expo.tasks import FLOATING

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def llama(tied=False):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=9))


@pytest.fixture
def make(tmp_path):
    """Folders of a base and of an adapter on it, whose factors are both drawn at random."""

    def folders(model, seed=2, change=None, **settings):
        base, adapter = tmp_path / "base", tmp_path / "adapter"
        model.save_pretrained(base)
        torch.manual_seed(seed)
        peft = get_peft_model(model, LoraConfig(init_lora_weights=False, **settings))
        if change is not None:
            with torch.no_grad():
                change(peft)
        peft.save_pretrained(adapter)
        return base, adapter

    return folders


def linear(alpha, r=4, lora_alpha=6, **settings):
    return {"r": r, "lora_alpha": lora_alpha, "target_modules": ["q_proj", "down_proj"], **settings}


def recipe(folders, alpha=0.3, **settings):
    return Recipe(str(folders[0]), str(folders[1]), alpha, **settings)


def put_on(kind, folders, adapter=None):
    base = kind.from_pretrained(folders[0], dtype=torch.float64)
    return PeftModel.from_pretrained(base, adapter or folders[1]).double()


def merged_by_peft(kind, folders, adapter=None):
    """What peft's own merge makes of it, in float64."""
    return put_on(kind, folders, adapter).merge_and_unload().state_dict()


def extrapolated(task):
    """The tensor that a task describes, in float64, by the formula."""
    one = load(task.aligned).double().view(task.aligned.shape)
    if task.base is None:
        return one
    two = load(task.base).double().view(task.base.shape)
    rows = slice(task.rows)
    one[rows] += task.alpha * (one[rows] - two[rows])
    return one


def merged(folders, alpha=0.3, **settings):
    base = open_checkpoint(folders[0], "the base")
    view = merged_view(base, open_adapter(folders[1]))
    tasks = merged_tasks(recipe(folders, alpha, **settings), base, view)
    return {task.aligned.name: extrapolated(task) for task in tasks}


def scaled(folders, tmp_path, alpha=0.3, **settings):
    """The folder of the scaled adapter."""
    adapter = open_adapter(folders[1])
    base = open_checkpoint(folders[0], "the base") if adapter.whole else None
    made = recipe(folders, alpha, **settings)
    out = tmp_path / "scaled"
    out.mkdir()
    tensors = {
        task.aligned.name: extrapolated(task).to(FLOATING[task.out_code])
        for task in adapter_tasks(made, adapter, base)
    }
    save_file(tensors, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps(scaled_config(made, adapter)))
    return out


def assert_close(found, wanted, tolerance=1e-12):
    """Of a tied head, which peft's state has twice, one is enough."""
    assert found.keys() <= wanted.keys()
    assert wanted.keys() - found.keys() <= {"lm_head.weight"}
    for name, tensor in found.items():
        assert (tensor - wanted[name]).abs().max() <= tolerance * wanted[name].abs().max(), name


KINDS = {
    "linear": (llama, LlamaForCausalLM, linear(0.3)),
    "rslora": (llama, LlamaForCausalLM, linear(0.3, use_rslora=True)),
    "patterns": (
        llama, LlamaForCausalLM,
        linear(0.3, alpha_pattern={"layers.1.self_attn.q_proj": 3}, rank_pattern={"down_proj": 2}),
    ),
    "embedding": (
        llama, LlamaForCausalLM,
        {"r": 4, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head"]},
    ),
    "conv1d": (
        gpt2, GPT2LMHeadModel,
        # c_proj of the attention is square: its shape does not say which way round it lies
        {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    ),
    "conv1d, square ones alone": (
        gpt2, GPT2LMHeadModel,
        {"r": 4, "lora_alpha": 6, "target_modules": ["attn.c_proj"], "fan_in_fan_out": True},
    ),
    "whole": (llama, LlamaForCausalLM, linear(0.3, modules_to_save=["lm_head"])),
    "biases": (
        gpt2, GPT2LMHeadModel,
        {"r": 4, "target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True},
    ),
}  # fmt: skip


def move(model):
    """Something to extrapolate in what is trained whole."""
    for name, tensor in model.named_parameters():
        if tensor.requires_grad and "lora_" not in name:
            tensor += 0.1 * torch.randn_like(tensor)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request, make):
    """(model class, folders) of every kind of adapter."""
    model, kind, settings = request.param
    return kind, make(model(), change=move, **settings)


@pytest.mark.parametrize("alpha", [0.3, -1.0])
def test_the_merged_checkpoint_is_the_formula_on_what_peft_merges(kind, alpha):
    model, folders = kind
    base = model.from_pretrained(folders[0], dtype=torch.float64).state_dict()
    one = merged_by_peft(model, folders)
    wanted = {name: one[name] + alpha * (one[name] - base[name]) for name in one}
    assert_close(merged(folders, alpha), wanted)


def test_with_alpha_0_it_is_what_peft_merges(kind):
    model, folders = kind
    assert_close(merged(folders, 0.0), merged_by_peft(model, folders))


@pytest.mark.parametrize("alpha", [0.3, 2.5])
def test_peft_makes_the_same_of_the_scaled_adapter(kind, tmp_path, alpha):
    model, folders = kind
    out = scaled(folders, tmp_path, alpha)
    assert_close(merged(folders, alpha), merged_by_peft(model, folders, out), 1e-6)
    ids = torch.arange(6)[None]
    logits = put_on(model, folders, out)(ids).logits
    plain = model.from_pretrained(folders[0], dtype=torch.float64)
    plain.load_state_dict(merged(folders, alpha), strict=False)
    torch.testing.assert_close(logits, plain(ids).logits, rtol=1e-6, atol=1e-6)


def test_the_factors_of_a_scaled_adapter_are_the_given_bytes(kind, tmp_path):
    _, folders = kind
    before = load_file(folders[1] / WEIGHTS)
    after = load_file(scaled(folders, tmp_path) / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("lora_" in name for name in changed)


def test_lora_alpha_is_multiplied_without_rounding_where_a_float_can_hold_it(make):
    folders = make(llama(), **linear(0.3, lora_alpha=16))
    adapter = open_adapter(folders[1])
    given = json.loads((folders[1] / CONFIG).read_text())
    for alpha, product in ((0.3, 20.8), (0.5, 24), (-1.0, 0), (0.0, 16)):
        found = scaled_config(recipe(folders, alpha), adapter)
        assert found == {**given, "lora_alpha": product}
        assert Fraction(repr(found["lora_alpha"])) == 16 * (1 + Fraction(repr(alpha)))


def test_modules_with_an_alpha_of_their_own_stand_in_alpha_pattern(make, tmp_path):
    folders = make(llama(), **linear(0.3, alpha_pattern={"q_proj": 3}))
    own = {"alpha_for": (("layers.1", 1.0),), "skip": ("layers.0.mlp",)}
    found = scaled_config(recipe(folders, **own), open_adapter(folders[1]))
    assert found["lora_alpha"] == 7.8
    assert found["alpha_pattern"] == {
        r"^model\.layers\.0\.self_attn\.q_proj": 3.9,
        r"^model\.layers\.0\.mlp\.down_proj": 6,
        r"^model\.layers\.1\.self_attn\.q_proj": 6,
        r"^model\.layers\.1\.mlp\.down_proj": 12,
    }
    out = scaled(folders, tmp_path, **own)
    assert_close(merged(folders, **own), merged_by_peft(LlamaForCausalLM, folders, out), 1e-6)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_merged_as_peft_merges_it(tmp_path, kernel):
    torch.manual_seed(4)
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    model = torch.nn.Sequential(torch.nn.Conv2d(6, 5, kernel), torch.nn.ReLU())
    save_file(model.state_dict(), base / "model.safetensors")
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    peft = get_peft_model(model, settings)
    peft.save_pretrained(folder)
    wanted = peft.double().merge_and_unload().state_dict()
    found = merged((base, folder), 0.0)
    assert_close(found, {name: tensor.double() for name, tensor in wanted.items()}, 1e-6)


def test_the_result_keeps_the_bases_order_and_dtypes(make):
    folders = make(llama().bfloat16(), **linear(0.3))
    base = open_checkpoint(folders[0], "the base")
    view = merged_view(base, open_adapter(folders[1]))
    tasks = merged_tasks(recipe(folders), base, view)
    assert [task.aligned.name for task in tasks] == list(base.tensors)
    assert {task.out_code for task in tasks} == {"BF16"}
    adapted = [task for task in tasks if task.base is not None]
    assert {task.aligned.code for task in adapted} == {"F64"}
    assert len(adapted) == 4
    assert {task.why for task in tasks if task.base is None} == {"not adapted"}
    wide = merged_tasks(recipe(folders, dtype="float32", skip=("mlp",)), base, view)
    assert {task.out_code for task in wide} == {"F32"}
    assert [task.why for task in wide].count("--skip") == 2


def test_a_piece_has_the_bits_of_the_whole(make):
    folders = make(llama(), **linear(0.3))
    view = merged_view(open_checkpoint(folders[0], "the base"), open_adapter(folders[1]))
    tensor = view.tensors["model.layers.0.mlp.down_proj.weight"]
    assert isinstance(tensor, AdaptedTensor)
    whole = load(tensor)
    for begin, length in ((0, 8), (8 * 5, 8 * 40), (8 * 100, tensor.nbytes - 8 * 100)):
        assert torch.equal(load(tensor, begin, length), whole[begin // 8 : (begin + length) // 8])


def test_a_tile_does_not_change_the_sum(make, monkeypatch):
    folders = make(llama(), **linear(0.3))
    whole = merged(folders)
    monkeypatch.setattr("w2s.expo.adapted._TILE", 100)
    assert_close(merged(folders), whole, 1e-15)


def test_a_base_without_the_models_prefix_is_matched_by_name(make):
    folders = make(llama(), r=4, target_modules=["q_proj", "down_proj", "embed_tokens"])
    wanted = merged(folders)
    tensors = load_file(folders[0] / "model.safetensors")
    shorter = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(shorter, folders[0] / "model.safetensors")
    found = merged(folders)
    assert "embed_tokens.weight" in found
    assert_close(found, {name.removeprefix("model."): wanted[name] for name in wanted})


def test_an_adapter_of_a_model_without_its_prefix_is_matched_by_name(make):
    folders = make(llama(), r=4, target_modules=["q_proj", "down_proj"])
    wanted = merged(folders)
    tensors = load_file(folders[1] / WEIGHTS)
    shorter = {name.replace("base_model.model.model.", "base_model.model."): tensor
               for name, tensor in tensors.items()}  # fmt: skip
    save_file(shorter, folders[1] / WEIGHTS)
    assert_close(merged(folders), wanted)


def grow(model):
    """Four tokens more, trained whole, with the head tied."""
    model.resize_token_embeddings(65)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_rows_that_the_adapter_adds_are_copied(make, tmp_path, tied):
    base = llama(tied)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(3)
    model = grow(llama(tied))
    peft = get_peft_model(model, LoraConfig(init_lora_weights=False, **linear(0.3)))
    peft.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    folders = tmp_path / "base", tmp_path / "adapter"
    opened = open_checkpoint(folders[0], "the base")
    tasks = merged_tasks(recipe(folders), opened, merged_view(opened, open_adapter(folders[1])))
    rows = {task.aligned.name: (task.rows, task.aligned.shape[0]) for task in tasks if task.rows}
    assert rows["model.embed_tokens.weight"] == (61, 65)
    assert ("lm_head.weight" in rows) == (not tied)
    theirs = {task.aligned.name: task for task in adapter_tasks(
        recipe(folders), open_adapter(folders[1]), opened)}  # fmt: skip
    assert theirs["base_model.model.lm_head.weight"].rows == 61


TIED = {
    "adapted embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("settings", TIED.values(), ids=TIED.keys())
def test_a_tied_head_is_not_changed_with_its_embedding(make, settings):
    folders = make(llama(tied=True), change=move, **settings)
    with pytest.raises(ExpoError, match=r"ties head and embedding.*--lora adapter"):
        merged(folders)


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora.*DoRA"),
    "another kind": ({"peft_type": "VERA"}, "of the kind VERA"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "layers": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "rank": ({"r": 8}, "not of rank 8"),
    "no rank": ({"r": 0}, "r=0"),
    "alpha": ({"lora_alpha": "16"}, "lora_alpha='16'"),
    "pattern": ({"alpha_pattern": {"(": 2}}, "'\\('"),
    "pattern's value": ({"rank_pattern": {"q": None}}, "rank_pattern"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_other_kinds_of_adapters_are_refused_by_name(make, change, message):
    _, folder = make(llama(), **linear(0.3))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ExpoError, match=message) as caught:
        open_adapter(folder)
    assert "\n" not in str(caught.value)


def drop_a_factor(tensors):
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]


def rename_a_module(tensors):
    for name in [name for name in tensors if "layers.1.mlp" in name]:
        tensors[name.replace("layers.1", "layers.7")] = tensors.pop(name)


def widen_a_factor(tensors):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[name] = torch.zeros(4, 17)


def add_a_stranger(tensors):
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.ones(
        16
    )


def round_to_integers(tensors):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors[name] = tensors[name].to(torch.int8)


DAMAGE = {
    "counterpart": (drop_a_factor, "q_proj.lora_B.weight in .* has no counterpart"),
    "stranger": (add_a_stranger, "lora_magnitude_vector in .* is no factor of a LoRA"),
    "unknown module": (rename_a_module, r"adapts model\.layers\.7\.mlp.*the base does not have"),
    "shape": (widen_a_factor, r"q_proj of the adapter adds \[16, 17\].*\[16, 16\]"),
    "dtype": (round_to_integers, "lora_B.weight in .* is of dtype I8"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_an_adapter_that_does_not_fit_is_refused_by_tensor(make, damage, message):
    folders = make(llama(), **linear(0.3))
    tensors = load_file(folders[1] / WEIGHTS)
    damage(tensors)
    save_file(tensors, folders[1] / WEIGHTS)
    with pytest.raises(ExpoError, match=message):
        merged(folders)


def test_a_folder_without_an_adapter_says_so(make):
    folders = make(llama(), **linear(0.3))
    with pytest.raises(ExpoError, match="is no adapter"):
        open_adapter(folders[0])
    (folders[1] / WEIGHTS).unlink()
    with pytest.raises(ExpoError, match="has no weights"):
        open_adapter(folders[1])
