"""Every family is right to 1e-5, past its windows and whatever happens to its rows, or refused."""

import functools
from unittest import mock

import pytest
import torch
from torch import Tensor

import w2s
from support.families import OTHERS, PROMISED, REFUSED, config
from support.host_free import HostQuestion, watched
from support.lineage import at_random
from support.tiny import EOS, VOCAB, llama_config, tiny_model
from w2s.flags import DeferredFlag
from w2s.heads import head_logits
from w2s.pool import Pool

# Longer and shorter than the window of 6; the longest takes three pieces of 16.
PROMPTS = [[4 + (7 * i) % 59 for i in range(n)] for n in (40, 1, 12, 5)]
PLAN = w2s.SearchPlan(2, 2, 4, max_new_tokens=28, top_k=0, temperature=1.0)
FAST = ("llama", "gemma2")  # one on SDPA, one on eager attention with an additive mask
READ_THE_DEVICE = {"llama-dynamic"}
EVERY = [*PROMISED, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


@functools.cache
def loaded(name, seed):
    return w2s.load((tiny_model({**PROMISED, **OTHERS}[name], seed), None))


def own_logprobs(model, prompt, response):
    """log p of each response token by the model's own uncached forward, in float64."""
    with torch.no_grad():
        logits = model.module(
            input_ids=torch.tensor([[*prompt, *response]]), use_cache=False
        ).logits[0]
    logs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
    return logs[range(len(response)), response]


def shaken(proposer, scorer, plan=PLAN, prompts=PROMPTS):
    """Chunks with random parents in between: what each row wrote, its log-probs, its score."""
    dice = torch.Generator().manual_seed(0)
    pool = Pool(len(prompts), plan, torch.device("cpu"))
    size = pool.size
    proposer.start(prompts, size)
    scorer.start(prompts, size)
    rows = [([], []) for _ in range(len(prompts) * size)]
    while len(rows[0][0]) < plan.max_new_tokens:
        chunk = proposer.extend(plan.chunk)
        scores = scorer.score(chunk)
        pool.admit(chunk)
        for number, length in enumerate(chunk.lengths.tolist()):
            tokens, logprobs = rows[number]
            rows[number] = (
                tokens + chunk.tokens[number, :length].tolist(),
                logprobs + chunk.logprobs[number, :length].tolist(),
            )
        yield rows, scores.tolist()
        parent = at_random(dice, pool)
        share = pool.share.clone()
        for part in (proposer, scorer):
            part.reorder(parent, share)
        pool.reorder(parent)
        rows = [rows[p * size + c] for p, row in enumerate(parent.tolist()) for c in row]


@pytest.mark.parametrize("name", EVERY)
def test_cached_is_uncached_past_the_window_after_any_reorder(name, monkeypatch):
    """Prompts in pieces, caches that grow twice, chunks in pieces, 28 tokens past a window of 6."""
    monkeypatch.setattr("w2s.kv._FIRST_BUCKET", 16)
    monkeypatch.setattr("w2s.models._TOKENS_PER_FORWARD", 48)
    monkeypatch.setattr("w2s.scorers.pair._TOKENS_PER_FORWARD", 48)
    tuned, untuned = (loaded(name, seed) for seed in (1, 2))
    for model in (tuned, untuned):
        monkeypatch.setattr(model, "eos_token_ids", frozenset())  # no row ends early
    proposer, scorer = w2s.LocalProposer(tuned, PLAN), w2s.PairScorer(tuned, untuned, PLAN)
    for rows, scores in shaken(proposer, scorer):  # noqa: B007
        pass
    size = PLAN.width * PLAN.samples
    for number, (tokens, logprobs) in enumerate(rows):
        assert len(tokens) == PLAN.max_new_tokens
        prompt = PROMPTS[number // size]
        ours, other = (own_logprobs(model, prompt, tokens) for model in (tuned, untuned))
        assert (torch.tensor(logprobs).double() - ours).abs().max() < 1e-5
        assert scores[number] == pytest.approx(float((ours - other).sum()), abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_our_head_gives_the_models_own_logits(name):
    model, ids = loaded(name, 1), torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
        theirs = model.module(input_ids=ids, use_cache=False).logits[0]
    assert torch.allclose(head_logits(hidden, model.head), theirs, atol=1e-5, rtol=1e-5)
    assert torch.allclose(model.logits(hidden), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_a_step_asks_the_host_nothing(name):
    """A decoding step of the families themselves; some read their positions, and are listed."""
    model = loaded(name, 1)
    cache = model.new_cache([len(prompt) for prompt in PROMPTS], 1, 60)
    position = torch.tensor([[len(prompt)] for prompt in PROMPTS])
    ids = torch.full_like(position, 9)
    to = Tensor.to

    def step():
        with watched([model], flag=DeferredFlag.read), mock.patch.object(Tensor, "to", to):
            model.hidden(ids, position, 41, cache)

    with torch.inference_mode():
        model.prefill(PROMPTS, cache)
        if name in READ_THE_DEVICE:
            with pytest.raises(HostQuestion):
                step()
        else:
            step()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_at_load(name):
    settings, message = REFUSED[name]
    with pytest.raises((w2s.ModelError, w2s.HeadError), match=message):
        w2s.load((tiny_model(settings, 1), None))


def test_the_probe_sees_a_window_that_the_layers_do_not_tell():
    """A config says full attention, the model's own masks have a window far beyond ten tokens."""
    model = tiny_model(config("Mistral", llama_config().to_dict(), sliding_window=100), 1)
    model.config.layer_types = ["full_attention"] * 2
    with pytest.raises(w2s.ModelError, match="gives other logits from the decoder's key-value"):
        w2s.load((model, None))
    assert model.config.sliding_window == 100  # narrowed only while the probe ran


def test_longrope_ends_where_its_frequencies_change():
    settings = config(
        "Phi3", llama_config().to_dict(), original_max_position_embeddings=32,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4, "original_max_position_embeddings": 32,
        },
    )  # fmt: skip
    model = w2s.load((tiny_model(settings, 1), None))
    assert model.context == 32
    plan = w2s.SearchPlan.greedy(max_new_tokens=20)
    prompt = PROMPTS[2]
    found = w2s.search([prompt], w2s.LocalProposer(model, plan), None, plan)[0].best.tokens
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([[*prompt, *found]]), use_cache=False).logits
    assert logits[0].argmax(-1)[len(prompt) - 1 : -1].tolist() == found
    with pytest.raises(w2s.PromptError, match="more than the 32 positions"):
        w2s.search([PROMPTS[0]], w2s.LocalProposer(model, plan), None, plan)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PROMISED],
)
def test_half_precision_is_no_further_from_float32_than_the_model_itself(name, dtype):
    """Cached half-precision scores and the uncached half-precision forward, both against float32
    of the same rounded weights: caching may cost no more than rounding does."""
    pair = tuple(w2s.load((tiny_model(PROMISED[name], seed), None), dtype=dtype) for seed in (1, 2))
    exact = tuple(
        w2s.load((tiny_model(PROMISED[name], seed).to(dtype).float(), None)) for seed in (1, 2)
    )
    plan = w2s.SearchPlan(1, 3, 6, max_new_tokens=12, top_k=0, temperature=1.0)
    found = w2s.search(PROMPTS, w2s.LocalProposer(pair[0], plan), w2s.PairScorer(*pair, plan), plan)
    ours, theirs = [], []
    for prompt, result in zip(PROMPTS, found, strict=True):
        for candidate in result.candidates:
            tokens = candidate.tokens
            right, own = (
                own_logprobs(tuned, prompt, tokens) - own_logprobs(untuned, prompt, tokens)
                for tuned, untuned in (exact, pair)
            )
            ours.append(abs(candidate.score - float(right.sum())) / len(tokens) ** 0.5)
            theirs.append(float((own - right).square().mean().sqrt()))
    assert sum(ours) / len(ours) < 4 * sum(theirs) / len(theirs) + 1e-6
    greedy = w2s.SearchPlan.greedy(max_new_tokens=6)
    best = w2s.search(PROMPTS, w2s.LocalProposer(pair[0], greedy), None, greedy)[0].best
    assert all(0 <= token < VOCAB for token in best.tokens)
    assert len(best.tokens) == 6 or best.tokens[-1] == EOS
