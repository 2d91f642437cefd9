"""A search over tiny random models on the device; nothing is downloaded."""

import pytest
import torch

import w2s
from support.on_device import PROMPTS, tiny

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def models(device):
    return tiny(device, 1), tiny(device, 2), tiny(device, 3)


def score_by_hand(model, prompt, tokens, device):
    ids = torch.tensor([prompt + tokens], device=device)
    logits = model.module(ids).logits[0, len(prompt) - 1 : -1].double()  # [T, V]
    law = torch.log_softmax(logits, dim=-1)
    return float(law.gather(-1, ids[0, len(prompt) :, None]).sum())


@pytest.mark.parametrize(("width", "samples", "chunk"), [(4, 4, 5), (2, 3, 7), (1, 8, None)])
def test_a_score_is_that_of_the_whole_response(device, models, width, samples, chunk):
    large, tuned, untuned = models
    plan = w2s.SearchPlan(width=width, samples=samples, chunk=chunk, max_new_tokens=18, seed=3)
    with torch.no_grad():
        for prompt, result in zip(
            PROMPTS, w2s.guide(PROMPTS, large=large, pair=(tuned, untuned), plan=plan), strict=True
        ):
            assert [c.score for c in result.candidates] == sorted(
                (c.score for c in result.candidates), reverse=True
            )
            for candidate in result.candidates:
                by_hand = score_by_hand(tuned, prompt, list(candidate.tokens), device)
                by_hand -= score_by_hand(untuned, prompt, list(candidate.tokens), device)
                assert candidate.score == pytest.approx(by_hand, abs=2e-3)


def test_the_same_seed_gives_the_same_texts(models):
    large, tuned, untuned = models
    plan = w2s.SearchPlan(width=2, samples=2, chunk=4, max_new_tokens=12, seed=5)
    runs = [
        [r.best.tokens for r in w2s.guide(PROMPTS, large=large, pair=(tuned, untuned), plan=plan)]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_greedy_search_takes_the_large_models_arg_max(device, models):
    large, tuned, untuned = models
    plan = w2s.SearchPlan(width=1, samples=1, chunk=None, max_new_tokens=6, temperature=0.0)
    result = w2s.guide(PROMPTS[:1], large=large, pair=(tuned, untuned), plan=plan)[0]
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for token in result.best.tokens:
            logits = large.module(torch.tensor([ids], device=device)).logits[0, -1]
            assert int(token) == int(logits.argmax())
            ids.append(int(token))
