"""Packed layers multiply as plain ones do, and a packed model can do what it could before."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

import w2s
from support.tiny import gpt2_config, llama_config, tiny_model, word_tokenizer
from w2s.footprint import footprint
from w2s.packing import Packed, can_pack, pack, plain_parameters

pytestmark = pytest.mark.skipif(
    not can_pack(torch.float32), reason="this torch has no oneDNN to pack weights with"
)
WIDE = {"hidden_size": 128, "intermediate_size": 160}
LLAMA = llama_config(**WIDE, attention_bias=True)
GPT2 = gpt2_config(n_embd=128)
FAMILIES = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["linear", "conv1d"])


def both(config, dtype=torch.float32):
    plain = tiny_model(config, seed=1).to(dtype)
    packed = copy.deepcopy(plain)
    count = pack(packed, keep=packed.get_output_embeddings())
    return plain, packed, count


def packed_layers(module):
    return [layer for layer in module.modules() if isinstance(layer, Packed)]


@torch.inference_mode()
def logits(module, rows=3):
    ids = (torch.arange(rows * 5) % 60 + 4).view(rows, 5)
    return module(input_ids=ids).logits


@FAMILIES
@pytest.mark.parametrize("rows", [1, 4, 70])
def test_a_packed_model_gives_the_plain_models_logits(config, rows):
    plain, packed, count = both(config)
    assert count == len(packed_layers(packed)) > 0
    torch.testing.assert_close(logits(packed, rows), logits(plain, rows), rtol=1e-5, atol=1e-5)


def test_bfloat16_layers_round_as_plain_ones_do():
    if not can_pack(torch.bfloat16):
        pytest.skip("oneDNN has no bfloat16 products on this processor")
    layer = nn.Linear(256, 128, dtype=torch.bfloat16)
    hidden = torch.randn(20, 256, dtype=torch.bfloat16)
    exact = hidden.double() @ layer.weight.double().T + layer.bias.double()
    assert pack(layer) == 1
    with torch.inference_mode():
        product = layer(hidden)
    assert product.dtype == torch.bfloat16
    torch.testing.assert_close(product.double(), exact, rtol=2**-8, atol=1e-4)


@FAMILIES
def test_weights_come_back_bit_for_bit(config):
    plain, packed, _ = both(config)
    saved = packed.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in plain.state_dict().items())
    named = dict(plain_parameters(packed))
    assert all(torch.equal(named[name], value) for name, value in plain.named_parameters())
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in plain.parameters())


@FAMILIES
def test_copies_and_pickles_give_the_same_bits(config):
    _, packed, count = both(config)
    file = io.BytesIO()
    torch.save(packed, file)
    file.seek(0)
    for other in (copy.deepcopy(packed), torch.load(file, weights_only=False)):
        assert len(packed_layers(other)) == count
        assert torch.equal(logits(other), logits(packed))


@FAMILIES
def test_another_state_can_be_loaded(config):
    _, packed, count = both(config)
    other = tiny_model(config, seed=2)
    packed.load_state_dict(other.state_dict())
    assert len(packed_layers(packed)) == count
    torch.testing.assert_close(logits(packed), logits(other), rtol=1e-5, atol=1e-5)


@FAMILIES
def test_a_change_of_dtype_is_that_of_the_plain_weights(config):
    plain, packed, _ = both(config)
    plain, packed = plain.double(), packed.double()
    assert not packed_layers(packed)
    assert torch.equal(logits(packed), logits(plain))


@FAMILIES
def test_training_unpacks_and_every_weight_gets_its_gradient(config):
    plain, packed, _ = both(config)
    ids = torch.arange(4, 12)[None]
    for module in (plain, packed):
        module.train().eval()  # once in training mode a model stays plain
        module(input_ids=ids, labels=ids).loss.backward()
    assert not packed_layers(packed)
    for (name, mine), theirs in zip(packed.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), name


@FAMILIES
def test_gradients_pass_through_packed_layers(config):
    plain, packed, _ = both(config)
    ids = torch.arange(4, 12)[None]
    found = []
    for module in (plain, packed):
        module(input_ids=ids, labels=ids).loss.backward()
        found.append(module.get_input_embeddings().weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_what_others_need_plain_is_left_alone():
    layer = nn.Linear(256, 256)
    shared = nn.Sequential(layer, nn.Linear(256, 256))
    shared[1].weight = layer.weight
    hooked = nn.Linear(256, 256)
    hooked.register_forward_hook(lambda *_: None)
    small = nn.Linear(16, 16)
    derived = type("Other", (nn.Linear,), {})(256, 256)
    for module in (shared, hooked, small, derived, nn.Linear(256, 256).double()):
        assert pack(module) == 0
        assert not packed_layers(module)
    head = nn.Linear(256, 256)
    assert pack(nn.Sequential(head), keep=head) == 0


def test_models_with_adapters_are_left_alone():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    assert pack(peft.get_peft_model(tiny_model(LLAMA, seed=1), lora)) == 0


def test_load_packs_what_it_loads_and_no_object_unasked(tmp_path: Path):
    plain = tiny_model(LLAMA, seed=1)
    plain.save_pretrained(tmp_path)
    given = w2s.load((plain, None))
    assert not packed_layers(given.module)
    loaded = w2s.load(tmp_path, tokenizer=word_tokenizer(), device="cpu")
    assert packed_layers(loaded.module)
    assert not packed_layers(loaded.output)
    assert not packed_layers(
        w2s.load(tmp_path, tokenizer=word_tokenizer(), device="cpu", packed=False).module
    )
    assert footprint(loaded).weights == footprint(given).weights
    asked = w2s.load((copy.deepcopy(plain), None), packed=True)
    assert torch.equal(logits(asked.module), logits(loaded.module))


@FAMILIES
def test_a_search_with_packed_models_keeps_the_same_candidates(config):
    plan = w2s.SearchPlan.cbs(2, 2, 2, max_new_tokens=6)
    found = []
    for packed in (False, True):
        large, tuned, untuned = (
            w2s.load((tiny_model(config, seed=seed), None), packed=packed) for seed in (1, 2, 3)
        )
        proposer = w2s.LocalProposer(large, plan)
        scorer = w2s.PairScorer(tuned, untuned, plan)
        found.append(w2s.search([[5, 6, 7]], proposer, scorer, plan)[0])
    assert found[0].best.tokens == found[1].best.tokens
    assert found[0].best.score == pytest.approx(found[1].best.score, abs=1e-4)
