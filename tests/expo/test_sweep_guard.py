"""The guard perplexity is that of transformers' own cross-entropy."""

import math

import pytest
import torch

import w2s
from support.tiny import gpt2_config, llama_config, tiny_model, word_tokenizer
from w2s.errors import ExpoError
from w2s.expo.sweep.guard import guard_text, perplexity

TEXTS = ["w5 w6 w7 w8 w9", "w10", "", " ".join(f"w{4 + n % 50}" for n in range(70)), "w7 w7"]


@pytest.fixture(params=[llama_config, gpt2_config])
def model(request):
    return w2s.load((tiny_model(request.param(), 3), word_tokenizer()))


@pytest.mark.parametrize("window", [256, 16])
def test_it_is_that_of_plain_cross_entropy_in_float64(model, window):
    guard = guard_text(model, TEXTS, window)
    exact = model.module.double()
    total = count = 0
    for text in TEXTS:
        ids = model.tokenizer(text)["input_ids"]
        for first in range(0, len(ids), window):
            part = torch.tensor([ids[first : first + window]])
            if part.shape[1] > 1:
                with torch.inference_mode():
                    loss = exact(input_ids=part, labels=part).loss
                total += float(loss) * (part.shape[1] - 1)
                count += part.shape[1] - 1
    assert guard.tokens == count
    model.module.float()
    assert perplexity(model, guard) == pytest.approx(math.exp(total / count), rel=2e-6)


def test_windows_do_not_reach_beyond_the_models_context():
    short = w2s.load((tiny_model(llama_config(max_position_embeddings=8), 1), word_tokenizer()))
    guard = guard_text(short, TEXTS)
    assert max(map(len, guard.windows)) == 8
    assert math.isfinite(perplexity(short, guard))


def test_texts_without_two_tokens_are_refused(model):
    with pytest.raises(ExpoError, match="no two tokens in a row"):
        guard_text(model, ["w5", ""])


def test_a_broken_model_has_no_finite_perplexity(model):
    guard = guard_text(model, TEXTS)
    with torch.no_grad():
        model.module.get_output_embeddings().weight.fill_(math.inf)
    assert not math.isfinite(perplexity(model, guard))
