"""`w2s.score`: identities with the models' own logits and with a search's scores."""

import math

import pytest
import torch

import w2s
from support.tiny import (
    EOS,
    VOCAB,
    TableModel,
    gpt2_config,
    llama_config,
    random_table,
    tiny_model,
    word_tokenizer,
)

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2], [9], [11, 12], [9], [5, 6, 7]]
RESPONSES = [[8, 9, 10], [4, 5, 6, 7, 8, EOS], [20], [], [30, 31, 32, 33], [40] * 11, [12, 13]]


@pytest.fixture(scope="module")
def pair():
    config = llama_config()
    return tuple(w2s.load((tiny_model(config, seed), word_tokenizer())) for seed in (1, 2))


def own_logprobs(model, prompt, response):
    """log p of each token, in float64 from the model's own logits."""
    with torch.inference_mode():
        logits = model.module(torch.tensor([[*prompt, *response]]), use_cache=False).logits
    laws = logits[0, len(prompt) - 1 : -1, : model.vocab].double().log_softmax(-1)
    return [float(law[token]) for law, token in zip(laws, response, strict=True)]


def own_differences(prompts, response, models):
    tuned, untuned = (own_logprobs(m, p, response) for m, p in zip(models, prompts, strict=True))
    return [a - b for a, b in zip(tuned, untuned, strict=True)]


@pytest.mark.parametrize(
    "config",
    [
        llama_config(),
        llama_config(vocab_size=VOCAB + 8),
        gpt2_config(),
    ],
    ids=["llama", "padded head", "gpt2"],
)
def test_scores_are_those_of_the_models_own_logits(config):
    models = tuple(w2s.load((tiny_model(config, seed), word_tokenizer())) for seed in (1, 2))
    for prompt, response, found in zip(
        PROMPTS, RESPONSES, w2s.score(PROMPTS, RESPONSES, models), strict=True
    ):
        expected = own_differences((prompt, prompt), response, models)
        assert found.tokens == response
        assert found.n_tokens == len(response) == len(found.per_token)
        assert found.per_token == pytest.approx(expected, abs=1e-5)
        assert found.total == pytest.approx(sum(expected), abs=1e-5)


def test_the_total_is_the_sum_of_the_differences_in_order(pair):
    for found in w2s.score(PROMPTS, RESPONSES, pair):
        total = 0.0
        for difference in found.per_token:
            total += difference
        assert found.total == total


def test_a_model_against_itself_scores_exactly_zero(pair):
    for found in w2s.score(PROMPTS, RESPONSES, (pair[0], pair[0])):
        assert found.total == 0.0
        assert found.per_token == [0.0] * found.n_tokens


@pytest.mark.parametrize("batch_tokens", [1, 12, 40, 100_000])
def test_scores_do_not_depend_on_the_batches(pair, batch_tokens):
    alone = [
        w2s.score([prompt], [response], pair)[0]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    together = w2s.score(PROMPTS, RESPONSES, pair, batch_tokens=batch_tokens)
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    for one, other in zip(alone, together, strict=True):
        assert other.per_token == pytest.approx(one.per_token, abs=1e-5)


def test_padding_and_pieces_change_no_bit_of_a_table_models_scores(monkeypatch):
    models = tuple(w2s.load((TableModel(random_table(seed)), None)) for seed in (1, 2))
    alone = [w2s.score([p], [r], models)[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert w2s.score(PROMPTS, RESPONSES, models) == alone
    monkeypatch.setattr("w2s.scoring._TOKENS_PER_FORWARD", 6)
    assert w2s.score(PROMPTS, RESPONSES, models) == alone


@pytest.mark.parametrize("chunk", [3, None])
def test_the_candidates_of_a_search_get_their_own_score(pair, chunk):
    writer = w2s.load((tiny_model(llama_config(), 3), word_tokenizer()))
    plan = w2s.SearchPlan(2, 3, chunk, max_new_tokens=11, temperature=1.0, top_k=0)
    results = w2s.guide(PROMPTS[:3], large=writer, pair=pair, plan=plan)
    candidates = [(r.prompt, c) for r in results for c in r.candidates]
    assert any(c.tokens[-1] == EOS for _, c in candidates)
    found = w2s.score([p for p, _ in candidates], [c.tokens for _, c in candidates], pair)
    for one, (_, candidate) in zip(found, candidates, strict=True):
        assert one.total == pytest.approx(candidate.score, abs=1e-5)


def test_each_model_sees_the_prompt_through_its_own_template():
    tuned, untuned = (tiny_model(llama_config(), seed) for seed in (1, 2))
    models = (
        w2s.load((tuned, word_tokenizer()), template="w40 w41 {prompt}"),
        w2s.load((untuned, word_tokenizer())),
    )
    found = w2s.score(["w9 w8", "w9 w8"], ["w5 w6", "w7"], models)
    for one, response in zip(found, ([5, 6], [7]), strict=True):
        expected = own_differences(([40, 41, 9, 8], [9, 8]), response, models)
        assert one.tokens == response
        assert one.per_token == pytest.approx(expected, abs=1e-5)


def test_the_end_token_is_scored_once_and_only_when_asked(pair):
    prompts, responses = [[5, 6]] * 3, ["w8 w9", [8, 9, EOS], ""]
    assert [one.tokens for one in w2s.score(prompts, responses, pair)] == [[8, 9], [8, 9, EOS], []]
    ended = w2s.score(prompts, responses, pair, eos=True)
    assert [one.tokens for one in ended] == [[8, 9, EOS], [8, 9, EOS], [EOS]]
    assert ended[0].per_token == pytest.approx(ended[1].per_token, abs=1e-6)


def test_an_empty_response_scores_nothing(pair):
    assert w2s.score(["w5"], [""], pair) == [w2s.ResponseScore(0.0, [], [])]
    assert w2s.score([], [], pair) == []


def test_a_folder_without_a_tokenizer_borrows_its_partners(tmp_path):
    for seed, name in enumerate(("tuned", "untuned")):
        tiny_model(llama_config(), seed).save_pretrained(tmp_path / name)
    word_tokenizer().save_pretrained(tmp_path / "untuned")
    folders = (tmp_path / "tuned", tmp_path / "untuned")
    found = w2s.score(["w5 w6"], ["w7 w8"], folders)[0]
    assert found.tokens == [7, 8]
    assert w2s.score(["w5 w6"], ["w7 w8"], folders[::-1])[0].total == -found.total
    with pytest.raises(w2s.ModelError, match=r"neither .* has tokenizer files; pass tokenizer="):
        w2s.score(["w5"], ["w7"], (folders[0], folders[0]))
    lent = w2s.score(["w5 w6"], ["w7 w8"], (folders[0], folders[0]), tokenizer=word_tokenizer())
    assert lent[0].total == 0.0


REFUSED = {
    "one string": ("w5", ["w7"], w2s.SearchError, "prompts is one string"),
    "one response": (["w5"], "w7", w2s.SearchError, "responses is one string"),
    "lengths": (["w5"], ["w7", "w8"], w2s.SearchError, "1 prompts and 2 responses"),
    "no prompt": (["w5", ""], ["w7", "w8"], w2s.PromptError, "prompt 1 is empty"),
    "no response": (["w5"], [None], w2s.PromptError, "response 0 is NoneType"),
    "unknown id": (["w5"], [[7, VOCAB]], w2s.PromptError, "response 0 has the token id 64"),
    "too long": (
        ["w5"] * 2, ["w7", [7] * 128], w2s.PromptError,
        "prompt 1 has 1 tokens, and with the 128 of its response",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "responses", "error", "message"), REFUSED.values(), ids=REFUSED.keys()
)
def test_rows_that_cannot_be_scored_are_named(pair, prompts, responses, error, message):
    with pytest.raises(error, match=message):
        w2s.score(prompts, responses, pair)


def test_a_row_that_just_fits_is_scored(pair):
    assert w2s.score(["w5"], [[7] * 127], pair)[0].n_tokens == 127


def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(w2s.SearchError, match=r"pair must be \(tuned, untuned\)"):
        w2s.score(["w5"], ["w7"], pair[:1])
    other = w2s.load((tiny_model(llama_config(), 1), word_tokenizer(prefix="v")))
    with pytest.raises(w2s.VocabularyError, match="differ"):
        w2s.score(["w5"], ["w7"], (pair[0], other))
    with pytest.raises(w2s.SearchError, match="batch_tokens is 0"):
        w2s.score(["w5"], ["w7"], pair, batch_tokens=0)


def test_a_score_that_is_nan_is_refused_with_its_place(pair):
    broken = tiny_model(llama_config(), 5)
    model = w2s.load((broken, word_tokenizer()))
    with torch.no_grad():
        broken.model.embed_tokens.weight[9] = math.nan
    with pytest.raises(w2s.SearchError, match="score of response 1 is NaN; check the models"):
        w2s.score([[5], [5]], [[7, 8], [7, 9, 4]], (model, pair[1]))
