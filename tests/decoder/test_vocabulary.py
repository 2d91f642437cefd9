"""Models that read different tokens are refused, by a comparison of every entry."""

import json

import pytest
from tokenizers import Tokenizer

import w2s
from support.tiny import TableModel, random_table, word_tokenizer


def model(vocab, tokenizer=None):
    return w2s.load((TableModel(random_table(0, vocab=vocab)), tokenizer))


def swapped():
    """The same size and the same words, two of them with each other's id."""
    spec = json.loads(word_tokenizer().backend_tokenizer.to_str())
    words = spec["model"]["vocab"]
    words["w5"], words["w6"] = words["w6"], words["w5"]
    changed = word_tokenizer()
    changed._tokenizer = Tokenizer.from_str(json.dumps(spec))
    return changed


def test_models_with_one_vocabulary_fit():
    w2s.PairScorer(model(64, word_tokenizer()), model(80, word_tokenizer()), w2s.SearchPlan())
    w2s.PairScorer(model(64), model(64), w2s.SearchPlan())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: model(70, word_tokenizer(66)), "differ in 2 entries, the first 'w64': id None"),
        (lambda: model(64, word_tokenizer(prefix="v")), "entries, the first 'v1'"),
        (lambda: model(64, swapped()), "differ in 2 entries, the first 'w5': id 5 against 6"),
        (lambda: model(63), "has 64 tokens, .* has 63"),
    ],
)
def test_models_with_different_vocabularies_are_refused(other, message):
    plan, mine, theirs = w2s.SearchPlan(), model(64, word_tokenizer()), other()
    with pytest.raises(w2s.VocabularyError, match=message):
        w2s.PairScorer(mine, theirs, plan)
    scorer = w2s.PairScorer(theirs, theirs, plan)
    with pytest.raises(w2s.VocabularyError, match=message):
        w2s.search([[5]], w2s.LocalProposer(mine, plan), scorer, plan)


def test_a_tokenizer_larger_than_its_model_is_refused():
    with pytest.raises(w2s.VocabularyError, match=r"ids up to 63, .* only 40 columns"):
        model(40, word_tokenizer())
