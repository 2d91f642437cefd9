"""Rewards: each gives one finite number a response, or says whose fault it is."""

import math
import sys

import pytest
import torch
from transformers import LlamaForSequenceClassification

import w2s
from support.tiny import llama_config, tiny_model, word_tokenizer
from w2s.errors import ExpoError
from w2s.expo.sweep import rewards
from w2s.expo.sweep.rewards import checked, make_reward
from w2s.reproduce import judge as judge_module

PROMPTS, RESPONSES = ["w5 w6", "w7", "w7"], [" w8 w9", "", " w10 w11 w12"]


@pytest.fixture
def reward(tmp_path):
    def make(given, tokenizer=None):
        return make_reward(given, tmp_path, lambda line: None, device="cpu", tokenizer=tokenizer)

    return make


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(code, name="my_reward"):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(code)

    yield write
    sys.modules.pop("my_reward", None)


def test_a_function_gets_prompts_and_responses_and_gives_the_reward(reward, module):
    module("def score(prompts, responses):\n    return [len(p) + len(r) / 10 for p, r in "
           "zip(prompts, responses, strict=True)]\n")  # fmt: skip
    found = reward("python:my_reward:score")(PROMPTS, RESPONSES)
    assert found == {"reward": [5.6, 2.0, 3.2]}


def test_a_functions_source_is_what_it_depends_on(reward, module):
    module("def score(prompts, responses): return [0.0] * len(prompts)\n")
    before = reward("python:my_reward:score").depends_on
    module("def score(prompts, responses): return [1.0] * len(prompts)\n")
    assert reward("python:my_reward:score").depends_on != before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(p, r): return [1.0]", "returned 1 values for 3 responses"),
        ("def score(p, r): return 1.0", "returned float; it must return a list of 3 numbers"),
        ("def score(p, r): return [1.0, float('nan'), 2.0]", "gave nan for response 1"),
        ("def score(p, r): return [1.0, 2.0, float('inf')]", "gave inf for response 2"),
        ("def score(p, r): return ['1', 2.0, 3.0]", "gave '1' for response 0"),
        ("def score(p, r): return [None, 2.0, 3.0]", "gave None for response 0"),
        ("def score(p, r): raise KeyError('x')", "raised KeyError: 'x'"),
        ("def other(p, r): return []", "my_reward has no function score"),
        ("score = 3", "my_reward has no function score"),
        ("import nothing_like_it", "my_reward cannot be imported (ModuleNotFoundError: No module"),
        ("1 +", "my_reward cannot be imported (SyntaxError"),
    ],
)
def test_a_function_that_fails_is_named(reward, module, code, said):
    module(code + "\n")
    with pytest.raises(ExpoError) as refused:
        reward("python:my_reward:score")(PROMPTS, RESPONSES)
    assert said in str(refused.value)
    assert "'python:my_reward:score'" in str(refused.value)


@pytest.mark.parametrize("values", [torch.tensor([1, 2]), [True, 2], (1, 2.0)])
def test_anything_that_holds_numbers_is_taken(values):
    assert checked(values, 2, "x") == [1.0, 2.0]


@pytest.mark.parametrize(
    "given", ["", "judge", "hf:", "python:", "python:module", "python::f", "python:m:a b", "pair:a"]
)
def test_what_is_no_reward_is_refused(reward, given):
    with pytest.raises(ExpoError, match="reward"):
        reward(given)


def save_pair(folder):
    for number, name in enumerate(("tuned", "untuned")):
        tiny_model(llama_config(), number).save_pretrained(folder / name)
    word_tokenizer().save_pretrained(folder / "tuned")
    return folder / "tuned", folder / "untuned"


def test_a_pairs_reward_is_its_score(reward, tmp_path):
    pair = save_pair(tmp_path)
    found = reward(f"pair:{pair[0]},{pair[1]}")(PROMPTS, RESPONSES)
    assert found["reward"] == [one.total for one in w2s.score(PROMPTS, RESPONSES, pair)]
    assert found["reward"][1] == 0.0


def save_classifier(folder, labels):
    torch.manual_seed(0)
    names = dict(enumerate(["bad", "good"][-labels:]))
    config = llama_config(num_labels=labels, id2label=names, pad_token_id=None)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize(("labels", "label"), [(1, ""), (2, "#good"), (2, "#1"), (2, "#bad")])
def test_a_classifiers_reward_is_its_output(reward, tmp_path, labels, label):
    model = save_classifier(tmp_path / "rm", labels)
    found = reward(f"hf:{tmp_path / 'rm'}{label}")(PROMPTS, RESPONSES)["reward"]
    tokenizer = word_tokenizer()
    for prompt, response, value in zip(PROMPTS, RESPONSES, found, strict=True):
        ids = torch.tensor([tokenizer(prompt + response)["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0].double()
        wanted = logits[0] if labels == 1 else logits.softmax(-1)[0 if label == "#bad" else 1]
        assert value == pytest.approx(float(wanted), abs=1e-5)


def test_a_classifiers_labels_are_listed_where_none_fits(reward, tmp_path):
    save_classifier(tmp_path / "rm", 2)
    for label, said in (
        ("", "has 2 labels; add #LABEL: 0 (bad), 1 (good)"),
        ("#2", "no label '2'"),
    ):
        with pytest.raises(ExpoError) as refused:
            reward(f"hf:{tmp_path / 'rm'}{label}")
        assert said in str(refused.value)


def test_a_text_that_a_classifier_cannot_read_whole_is_refused(reward, tmp_path):
    save_classifier(tmp_path / "rm", 1)
    with pytest.raises(ExpoError, match=r"reads 128 tokens at most, and a prompt .* has 131"):
        reward(f"hf:{tmp_path / 'rm'}")(["w5"], [" w6" * 130])


@pytest.mark.parametrize("given", ["pair:no/such/a,no/such/b", "hf:/no/such/model"])
def test_a_model_that_is_not_there_is_named(reward, given):
    with pytest.raises(ExpoError, match="no/such"):
        reward(given)


def test_the_sentiment_reward_is_the_judges_with_vader_beside_it(reward, monkeypatch, tmp_path):
    class Stub:
        def __init__(self):
            self.facts = {"accuracy": 1.0}

        def __call__(self, text):
            return 0.25 + 0.5 * ("good" in text)

    kept = []
    monkeypatch.setattr(judge_module, "kept_judge", lambda path, say: kept.append(path) or Stub())
    one = reward("sentiment")
    found = one(["p", "p"], ["a good film", "a bad film"])
    assert found["reward"] == [0.75, 0.25]
    assert found["vader"][0] > 0 > found["vader"][1]
    assert kept == [tmp_path / rewards.JUDGE_FILE]
    assert one.depends_on == {"judge": {"accuracy": 1.0}}
    assert all(map(math.isfinite, found["vader"]))
