"""Adapters by peft: on either side of a pair, in every place, equal to the merged model."""

import copy

import peft
import pytest
import torch
from torch import nn

import w2s
from support.tiny import TableModel, llama_config, random_table, tiny_model, word_tokenizer

PROMPTS = [[5, 6, 7, 8, 30], [9]]
PLAN = w2s.SearchPlan(2, 2, 3, max_new_tokens=7, top_k=0, temperature=1.0)
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
# Where an adapter can sit, and whether the base's head is tied to its embedding.
PLACES = {
    "attention": (ATTENTION, False),
    "attention-tied": (ATTENTION, True),
    "head": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "head-rslora": ({"target_modules": ["lm_head"], "use_rslora": True}, False),
    "embedding": ({"target_modules": ["embed_tokens"]}, False),
    "dora": ({"target_modules": ["q_proj"], "use_dora": True}, False),
    "dora-head": ({"target_modules": ["lm_head"], "use_dora": True}, False),
    "saved-head": ({**ATTENTION, "modules_to_save": ["lm_head"]}, False),
}
# Merging writes into the one tensor that both ends share: the merged model is then another one.
TIED = {
    "embedding-of-a-tied-pair": {"target_modules": ["embed_tokens"]},
    "head-of-a-tied-pair": {"target_modules": ["lm_head"]},
}


def base(tied=False):
    return tiny_model(llama_config(tie_word_embeddings=tied), 0)


def adapted(settings, tied=False, seed=5):
    model = peft.get_peft_model(
        base(tied), peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    )
    return stirred(model, seed)


def stirred(model, seed):
    """A fresh adapter changes nothing: give it weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1.3)
            elif "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def logits(module):
    with torch.no_grad():
        return module(input_ids=torch.tensor([PROMPTS[0]])).logits[0]


def scores(tuned, untuned):
    """The pair's scores of what one writer wrote, which depends on neither."""
    writer = w2s.load((tiny_model(llama_config(), 3), None))
    plan = w2s.SearchPlan(1, 4, None, max_new_tokens=7, top_k=0, temperature=1.0)
    scorer = w2s.PairScorer(tuned, untuned, plan)
    found = w2s.search(PROMPTS, w2s.LocalProposer(writer, plan), scorer, plan)
    return {tuple(c.tokens): c.score for result in found for c in result.candidates}


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for tokens, score in found.items():
        assert score == pytest.approx(expected[tokens], abs=tolerance)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("side", ["tuned", "untuned"])
def test_an_adapters_scores_are_the_merged_models(place, side):
    settings, tied = PLACES[place]
    model, other = adapted(settings, tied), w2s.load((tiny_model(llama_config(), 8), None))
    merged = copy.deepcopy(model).merge_and_unload()
    pairs = [(w2s.load((module, None)), other) for module in (model, merged)]
    if side == "untuned":
        pairs = [(right, left) for left, right in pairs]
    found = scores(*pairs[0])
    assert any(abs(score) > 0.1 for score in found.values())
    assert_same(found, scores(*pairs[1]))


@pytest.mark.parametrize("place", [*PLACES, *TIED])
def test_the_head_path_gives_the_adapted_models_own_logits(place):
    settings, tied = PLACES.get(place) or (TIED[place], True)
    module = adapted(settings, tied)
    model = w2s.load((module, None))
    with torch.no_grad():
        ids = torch.tensor([PROMPTS[0]])
        hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
    ours = hidden @ model.head.weight.T
    assert torch.allclose(ours, logits(module), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(module), logits(base(tied)), atol=1e-2)


@pytest.mark.parametrize("place", [*PLACES, *TIED])
def test_an_adapters_folder_loads_as_the_adapted_model(place, tmp_path):
    """Its base is where the folder says, and so is its tokenizer."""
    settings, tied = PLACES.get(place) or (TIED[place], True)
    base(tied).save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    module = adapted(settings, tied)
    module.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    module.save_pretrained(tmp_path / "adapter")
    model = w2s.load(tmp_path / "adapter")
    assert torch.equal(logits(model.module), logits(module))
    assert model.encode(["w5 w6"], 1) == [[5, 6]]
    half = w2s.load(tmp_path / "adapter", dtype="bfloat16")
    assert half.module.dtype == torch.bfloat16


def test_a_folder_pair_of_an_adapter_and_its_base_is_guided(tmp_path):
    base().save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    module = adapted(ATTENTION)
    module.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    module.save_pretrained(tmp_path / "adapter")
    large = (tiny_model(llama_config(), 3), word_tokenizer())
    found = w2s.guide(["w5 w6"], large, (tmp_path / "adapter", tmp_path / "base"), PLAN)
    given = w2s.load((module, word_tokenizer())), w2s.load((base(), word_tokenizer()))
    assert found[0].best.tokens == w2s.guide(["w5 w6"], large, given, PLAN)[0].best.tokens


def test_an_adapter_whose_base_is_not_named_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(w2s.ModelError, match="names no base model"):
        w2s.load(tmp_path)


def test_one_base_serves_both_sides_of_a_pair():
    """adapter=False is a second model over the same weights, and the first one stays as it was."""
    module = adapted(ATTENTION)
    before, trainable = logits(module), [p.requires_grad for p in module.parameters()]
    tuned = w2s.load((module, None))
    untuned = w2s.load((module, None), adapter=False)
    assert [p.requires_grad for p in module.parameters()] == trainable
    assert torch.equal(logits(module), before)
    assert torch.equal(logits(untuned.module), logits(base()))
    weights = {p.data_ptr() for p in tuned.module.parameters()}
    assert {p.data_ptr() for p in untuned.module.parameters()} == weights
    assert_same(scores(tuned, untuned), scores(tuned, w2s.load((base(), None))), 0.0)


def test_several_adapters_are_chosen_by_name():
    module = adapted(ATTENTION)
    other = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["lm_head"])
    module.add_adapter("other", other)
    stirred(module, 6)
    module.set_adapter("default")
    active = logits(module)
    one, two = (w2s.load((module, None), adapter=name) for name in ("default", "other"))
    assert torch.equal(logits(one.module), active)
    module.set_adapter("other")
    assert torch.equal(logits(two.module), logits(module))
    assert torch.equal(logits(one.module), active)  # a view has its own choice
    assert not torch.equal(two.head.weight, one.head.weight)
    with pytest.raises(w2s.ModelError, match="no adapter 'third'; there are default, other"):
        w2s.load((module, None), adapter="third")


def test_disabled_and_merged_adapters_are_taken_as_they_are():
    settings = {"target_modules": ["q_proj", "lm_head"]}
    module = adapted(settings)
    expected = logits(module)
    module.merge_adapter()
    assert torch.allclose(logits(w2s.load((module, None)).module), expected, atol=1e-5)
    with pytest.raises(w2s.ModelError, match="unmerge_adapter"):
        w2s.load((module, None), adapter=False)
    module.unmerge_adapter()
    with module.disable_adapter():
        model = w2s.load((module, None))
        assert torch.allclose(model.head.weight, base().lm_head.weight, atol=1e-6)


def test_a_base_that_was_adapted_in_place_is_no_untuned_model():
    plain = base()
    untuned = w2s.load((plain, None))
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", **ATTENTION)
    tuned = w2s.load((stirred(peft.get_peft_model(plain, config), 5), None))
    with pytest.raises(w2s.ModelError, match="adapter=False"):
        w2s.PairScorer(tuned, untuned, PLAN)
    with pytest.raises(w2s.ModelError, match="adapter=False"):
        w2s.GuidedProposer((tiny_model(llama_config(), 3), None), tuned, untuned, PLAN)
    with pytest.raises(w2s.ModelError, match="carries no adapter"):
        w2s.load((base(), None), adapter=False)


def test_a_base_whose_biases_were_trained_cannot_be_shared():
    module = adapted({**ATTENTION, "bias": "all"})
    with pytest.raises(w2s.ModelError, match="load the base a second time"):
        w2s.load((module, None), adapter=False)


def test_adapters_that_work_on_the_prompt_are_refused():
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(w2s.ModelError, match="works on the prompt"):
        w2s.load((peft.get_peft_model(base(), config), None))


def test_a_head_whose_adapter_cannot_be_merged_is_refused():
    module = adapted({"target_modules": ["lm_head"], "lora_bias": True})
    model = w2s.load((module, None))  # it can write; only a pair needs the weight
    with pytest.raises(w2s.HeadError, match="merge it into the model"):
        w2s.PairScorer(model, model, PLAN)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_a_quantized_head_is_refused_with_a_sentence(dtype):
    """Layers as the quantizers leave them: a packed or scaled weight, or none at all."""

    class Quantized(nn.Module):
        def __init__(self, plain):
            super().__init__()
            self.plain = plain
            self.out_features = plain.out_features
            self.weight = nn.Parameter(torch.zeros(8, 1).to(dtype), requires_grad=False)

        def forward(self, hidden):
            return self.plain(hidden)

    module = TableModel(random_table(0))
    module.lm_head = Quantized(module.lm_head)
    model = w2s.load((module, None))
    with pytest.raises(
        w2s.HeadError, match=r"floating-point weight \(found Quantized.*not quantized"
    ):
        w2s.PairScorer(model, model, PLAN)
    del module.lm_head.weight
    with pytest.raises(w2s.HeadError, match="no linear output layer"):
        w2s.PairScorer(*[w2s.load((module, None))] * 2, PLAN)
