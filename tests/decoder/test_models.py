"""Model families: our caches, masks, positions and heads against the models' own forward."""

import pytest
import torch

import w2s
from support.families import PROMISED
from support.tiny import (
    EOS,
    VOCAB,
    TableModel,
    llama_config,
    random_table,
    tiny_model,
    word_tokenizer,
)

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [9], [4, 4, 8, 10, 12, 30, 2, 6, 6, 7, 31, 5]]


@pytest.fixture(scope="module", params=PROMISED)
def pair(request):
    config = PROMISED[request.param]
    return tuple(w2s.load((tiny_model(config, seed), None)) for seed in (1, 2))


def from_scratch(model, prompt, response):
    """Σ log p of a response by the model's own uncached forward, in float64."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model.module(input_ids=ids, use_cache=False).logits[0].double()
    logs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(logs[range(len(response)), response].sum())


def test_cached_scores_equal_scores_from_scratch(pair):
    """Also past the sliding windows, after re-orders, for prompts of different lengths."""
    plan = w2s.SearchPlan(2, 3, 4, max_new_tokens=14, top_k=0, temperature=1.0)
    found = w2s.search(PROMPTS, w2s.LocalProposer(pair[0], plan), w2s.PairScorer(*pair, plan), plan)
    for prompt, result in zip(PROMPTS, found, strict=True):
        for candidate in result.candidates:
            tuned, untuned = (from_scratch(m, prompt, candidate.tokens) for m in pair)
            assert candidate.score == pytest.approx(tuned - untuned, abs=1e-5, rel=1e-5)


def test_greedy_is_the_models_own_arg_max(pair):
    """Token by token from the model's uncached forward: the cached proposer sees the same."""
    model = pair[0]
    plan = w2s.SearchPlan.greedy(max_new_tokens=12)
    found = w2s.search(PROMPTS, w2s.LocalProposer(model, plan), None, plan)
    for prompt, result in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([[*prompt, *result.best.tokens]])
        with torch.no_grad():
            best = model.module(input_ids=ids, use_cache=False).logits[0].argmax(-1)
        assert best[len(prompt) - 1 : -1].tolist() == result.best.tokens


def test_a_long_prompt_goes_in_pieces_and_scores_the_same(pair, monkeypatch):
    plan = w2s.SearchPlan(1, 2, 4, max_new_tokens=8)
    prompts = [[4 + i % 50 for i in range(n)] for n in (70, 40, 17)]

    def run():
        scorer = w2s.PairScorer(*pair, plan)
        return w2s.search(prompts, w2s.LocalProposer(pair[0], plan), scorer, plan)

    whole = run()
    monkeypatch.setattr("w2s.models._TOKENS_PER_FORWARD", 48)
    monkeypatch.setattr("w2s.scorers.pair._TOKENS_PER_FORWARD", 12)
    for one, other in zip(whole, run(), strict=True):
        assert one.best.tokens == other.best.tokens
        assert one.best.score == pytest.approx(other.best.score, abs=1e-5)


def test_a_head_that_is_not_the_models_own_is_refused_with_both_numbers():
    class Scaled(TableModel):
        def forward(self, input_ids, **kwargs):
            output = super().forward(input_ids, **kwargs)
            output.logits = output.logits * 1.01
            return output

    with pytest.raises(
        w2s.HeadError, match=r"by our head and .* by the model \(config: .*logit_scale"
    ):
        w2s.load((Scaled(random_table(0)), None))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(w2s.ModelError, match="no head apart from its body"):
        w2s.load((tiny_model(llama_config(), 0).model, None))


def test_layers_without_a_plain_cache_are_refused():
    model = TableModel(random_table(0))
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(w2s.ModelError, match="linear_attention"):
        w2s.load((model, None))


def test_an_attention_that_takes_no_4d_mask_is_refused():
    model = TableModel(random_table(0))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(w2s.ModelError, match="attn_implementation='sdpa'"):
        w2s.load((model, None))


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("no/such/folder/model.gguf", {}, "does not exist"),
        ("/no/such/folder", {}, "cannot be loaded"),
        (7, {}, "a model is a path"),
        ("x", {"device": "warp"}, "'warp' is not a torch device"),
        ("x", {"dtype": "int8"}, "not a floating-point dtype"),
        ((TableModel(random_table(0)), None), {"revision": "main"}, "already loaded"),
    ],
)
def test_what_cannot_be_loaded_is_refused(source, settings, message):
    with pytest.raises(w2s.ModelError, match=message):
        w2s.load(source, **settings)


def test_a_saved_model_loads_from_its_folder(tmp_path):
    tokenizer = word_tokenizer()
    tiny_model(llama_config(), 4).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = w2s.load(tmp_path, template="w7 {prompt}")
    assert model.module.dtype == torch.float32
    assert model.eos_token_ids == {EOS}
    assert model.style.encode("w5", model.tokenizer) == [7, 5]
    assert w2s.load(str(tmp_path), dtype="bfloat16").module.dtype == torch.bfloat16
    plan = w2s.SearchPlan(2, 2, 3, max_new_tokens=5)
    found = w2s.guide(["w5 w6"], tmp_path, (str(tmp_path), model), plan)[0].best
    assert found.text == model.decode([t for t in found.tokens if t != EOS])


def test_a_pair_without_tokenizer_files_reads_with_the_large_models_tokenizer(tmp_path):
    tokenizer = word_tokenizer()
    large, tuned, untuned = (tiny_model(llama_config(), seed) for seed in range(3))
    for name, module in (("tuned", tuned), ("untuned", untuned)):
        module.save_pretrained(tmp_path / name)
    plan = w2s.SearchPlan(max_new_tokens=6)
    folders = (tmp_path / "tuned", tmp_path / "untuned")
    found = w2s.guide(["w5 w6"], (large, tokenizer), folders, plan)[0].best
    given = tuple(w2s.load((module, tokenizer)) for module in (tuned, untuned))
    expected = w2s.guide(["w5 w6"], (large, tokenizer), given, plan)[0].best
    assert (found.tokens, found.score) == (expected.tokens, expected.score)
    lent = w2s.load(folders[0], tokenizer=tokenizer)
    assert lent.tokenizer is tokenizer


def test_padding_columns_get_no_probability():
    """A head wider than its tokenizer: the surplus is neither sampled nor normalised."""
    table = random_table(5, vocab=80)
    table[:, VOCAB:] = 50.0  # would take all the mass
    narrow = w2s.load((TableModel(table[:, :VOCAB].contiguous()), word_tokenizer()))
    wide = w2s.load((TableModel(table), word_tokenizer()))
    plan = w2s.SearchPlan(2, 2, 3, max_new_tokens=6)

    def run(model):
        other = (TableModel(random_table(6, vocab=72)), model.tokenizer)
        scorer = w2s.PairScorer(model, other, plan)
        return w2s.search(["w5 w6"], w2s.LocalProposer(model, plan), scorer, plan)

    assert run(wide) == run(narrow)
