"""A pair with another tokenizer: scoring chunk by chunk is scoring the text from scratch."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import MistralConfig

import w2s
from support.tiny import TableModel, gpt2_config, llama_config, random_table, tiny_model
from support.tokenizer_kinds import TEXTS, byte_level, every_kind, word_level
from w2s.proposers import Chunk

EOS = 2  # of every tokenizer here
KINDS = list(every_kind())
PROMPTS = ["The film", "映画は 😀", "a"]


@cache
def table_pair(kind):
    """Two models read from tables: their log-probs are the same bits in every batch."""
    tokenizer = every_kind()[kind]
    return tuple(
        w2s.load((TableModel(random_table(seed, vocab=len(tokenizer)), EOS), tokenizer))
        for seed in (1, 2)
    )


def scratch(pair, prompt, tokens):
    """Σ (log p_tuned − log p_untuned) by the models' own logits of the whole, in float64."""
    total = 0.0
    for model, sign in zip(pair, (1, -1), strict=True):
        ids = model.style.encode(prompt, model.tokenizer) + list(tokens)
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids])).logits[0, :, : model.vocab]
        logs = logits.double().log_softmax(-1)
        first = len(ids) - len(tokens)
        total += sign * sum(float(logs[first - 1 + i, token]) for i, token in enumerate(tokens))
    return total


def text_of(tokenizer, tokens, over):
    """The scored text, written once more: half a character at the end waits for its rest."""

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    whole = decode(tokens)
    if over or not whole.endswith("\ufffd"):
        return whole
    found = [whole.rstrip("\ufffd")]
    shorter = [decode(tokens[: len(tokens) - held]) for held in (1, 2, 3) if held <= len(tokens)]
    found += [text for text in shorter if not text.endswith("\ufffd")][:1]
    return max(found, key=len)


def pair_tokens(pair, writer, tokens, over):
    by_eos = over and len(tokens) > 0 and tokens[-1] == EOS
    text = text_of(writer, tokens[:-1] if by_eos else tokens, over)
    return pair[0].tokenizer(text, add_special_tokens=False)["input_ids"] + [EOS] * by_eos


def chunk_of(rows, finished):
    """Rows of different lengths as one `Chunk`, with rubbish behind their ends."""
    width = max(1, *map(len, rows))
    return Chunk(
        torch.tensor([row + [7] * (width - len(row)) for row in rows]),
        torch.zeros(len(rows), width),
        torch.tensor([len(row) for row in rows]),
        torch.tensor(finished),
    )


def started(pair, plan, writer, prompts, rows_per_prompt):
    scorer = w2s.TextBridgeScorer(*pair, plan, source=writer)
    scorer.start(prompts, rows_per_prompt)
    return scorer


def random_tokens(data, writer, count):
    """Tokens of real text cut anywhere, or any tokens at all: invalid UTF-8, special tokens."""
    if data.draw(st.booleans()):
        ids = writer(data.draw(st.sampled_from(TEXTS)), add_special_tokens=False)["input_ids"]
        begin = data.draw(st.integers(0, max(0, len(ids) - count)))
        return ids[begin : begin + count]
    return data.draw(st.lists(st.integers(3, len(writer) - 1), min_size=count, max_size=count))


@pytest.mark.parametrize("pair_kind", KINDS)
@pytest.mark.parametrize("writer_kind", ["byte_level_small", "byte_fallback", "word_piece"])
# Not shrunk: that takes minutes a case, and 18 cases fail together.
@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(data=st.data())
def test_every_round_has_the_bits_of_scoring_from_scratch(writer_kind, pair_kind, data):
    writer, pair = every_kind()[writer_kind], table_pair(pair_kind)
    size, limit = data.draw(st.integers(1, 4)), 18
    plan = w2s.SearchPlan(1, size, 3, max_new_tokens=limit)
    prompts = PROMPTS[: data.draw(st.integers(1, 3))]
    count = len(prompts) * size
    scorer = started(pair, plan, writer, prompts, size)
    rows, over = [[] for _ in range(count)], [False] * count
    written = 0
    while written < limit:
        length = min(data.draw(st.integers(1, 7)), limit - written)
        new = []
        for row in range(count):
            gain = [] if over[row] else random_tokens(data, writer, length)
            if gain and (len(gain) < length or data.draw(st.integers(0, 9)) == 0):
                gain, over[row] = [*gain[:-1], EOS], True
            new.append(gain)
        rows = [row + gain for row, gain in zip(rows, new, strict=True)]
        written += length
        found = scorer.score(chunk_of(new, over))
        again = started(pair, plan, writer, prompts, size).score(chunk_of(rows, over))
        assert found.tolist() == again.tolist()
        for number, (row, total) in enumerate(zip(rows, found.tolist(), strict=True)):
            ids = pair_tokens(pair, writer, row, over[number] or len(row) == limit)
            expected = scratch(pair, prompts[number // size], ids)
            assert total == pytest.approx(expected, abs=1e-5)
        parent = [
            [data.draw(st.integers(0, size - 1)) for _ in range(size)] for _ in range(len(prompts))
        ]
        scorer.reorder(torch.tensor(parent), torch.zeros(len(prompts), size, size).long())
        order = [pool * size + old for pool, chosen in enumerate(parent) for old in chosen]
        rows, over = [rows[old] for old in order], [over[old] for old in order]


@pytest.mark.parametrize("length", range(1, 8))
def test_with_the_writers_own_tokenizer_it_is_the_pair_scorer(length):
    """Words keep their tokens whatever follows, so that both scorers read the same."""
    pair, tokenizer = table_pair("word_level"), word_level()
    plan = w2s.SearchPlan(1, 2, length, max_new_tokens=12)
    words = tokenizer(" ".join(TEXTS[:2]), add_special_tokens=False)["input_ids"]
    words = [token for token in words if token > EOS]
    rows = [words[:12], [*words[5:10], EOS], words[8:20], [*words[3:14], EOS]]
    bridge, direct = (
        w2s.TextBridgeScorer(*pair, plan, source=tokenizer),
        w2s.PairScorer(*pair, plan),
    )
    for scorer in (bridge, direct):
        scorer.start(PROMPTS[:2], 2)
    for begin in range(0, 12, length):
        over = [EOS in row[: begin + length] for row in rows]
        chunk = chunk_of([row[begin : begin + length] for row in rows], over)
        assert bridge.score(chunk).tolist() == direct.score(chunk).tolist()


def test_a_chunk_reads_only_what_has_changed():
    pair, tokenizer = table_pair("word_level"), word_level()
    plan = w2s.SearchPlan(1, 2, 4, max_new_tokens=40)
    scorer = started(pair, plan, tokenizer, PROMPTS[:1], 2)
    widths = []
    hidden = scorer.tuned.hidden

    class Counting:
        def __getattr__(self, name):
            return getattr(pair[0], name)

        def hidden(self, ids, *rest):
            widths.append(ids.shape[1])
            return hidden(ids, *rest)

    scorer.tuned = Counting()
    for begin in range(3, 43, 4):
        ids = list(range(begin, begin + 4))
        scorer.score(chunk_of([ids, ids[::-1]], [False, False]))
        scorer.reorder(torch.tensor([[1, 1]]), torch.zeros(1, 2, 2).long())
    scorer.score(chunk_of([[], []], [True, True]))
    assert widths == [4] * 10


FAMILIES = {
    "llama": llama_config,
    "gpt2": gpt2_config,
    "mistral": lambda **kw: MistralConfig(
        **{**llama_config().to_dict(), "model_type": "mistral", "sliding_window": 9, **kw}
    ),
}


@cache
def family_pair(family, kind):
    tokenizer = every_kind()[kind]
    positions = {"n_positions": 400} if family == "gpt2" else {"max_position_embeddings": 400}
    config = FAMILIES[family](vocab_size=len(tokenizer), eos_token_id=EOS, **positions)
    return tuple(w2s.load((tiny_model(config, seed), tokenizer)) for seed in (5, 6))


def slow_search(prompts, rounds, plan, writer, pair):
    """Algorithm 1 of the paper over recorded rounds, every text scored from scratch."""
    pools, known = [], {}

    def score(prompt, tokens, over):
        key = (prompt, tuple(pair_tokens(pair, writer, tokens, over)))
        if key not in known:
            known[key] = scratch(pair, prompt, key[1])
        return known[key]

    for number, prompt in enumerate(prompts):
        pool = [([], False)] * plan.pool
        for last, rows in enumerate(rounds, 1 - len(rounds)):
            grown = []
            for (tokens, over), new in zip(pool, rows[number * plan.pool :], strict=False):
                new = [] if over else new[: new.index(EOS) + 1] if EOS in new else new
                over = over or EOS in new or len(tokens) + len(new) == plan.max_new_tokens
                grown.append((tokens + new, over))
            ranked = sorted(grown, key=lambda row: -score(prompt, *row))  # the first of equals
            pool = ranked if last == 0 else [row for row in ranked[: plan.width] for _ in
                                             range(plan.samples)]  # fmt: skip
            if all(over for _, over in ranked[: plan.width]):
                pool = ranked
                break
        pools.append([(tokens, score(prompt, tokens, over)) for tokens, over in pool])
    return pools


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("kinds", [("byte_level", "byte_fallback"), ("byte_fallback", "unigram")])
def test_a_search_through_the_bridge_is_the_papers_algorithm(family, kinds):
    writer, pair = every_kind()[kinds[0]], family_pair(family, kinds[1])
    plan = w2s.SearchPlan(2, 2, 4, max_new_tokens=22, clones=True)
    generator = torch.Generator().manual_seed(3)
    rows = len(PROMPTS) * plan.pool
    rounds = []
    for length in (4, 4, 4, 4, 4, 2):
        drawn = torch.randint(3, len(writer), (rows, length), generator=generator)
        drawn[torch.rand(rows, length, generator=generator) < 0.01] = EOS
        rounds.append(drawn.tolist())
    proposer = w2s.ReplayProposer(rounds, EOS, writer)
    found = w2s.search(PROMPTS, proposer, w2s.TextBridgeScorer(*pair, plan), plan)
    expected = slow_search(PROMPTS, rounds, plan, writer, pair)
    for result, pool in zip(found, expected, strict=True):
        assert [c.tokens for c in result.candidates] == [tokens for tokens, _ in pool]
        for candidate, (_, total) in zip(result.candidates, pool, strict=True):
            assert candidate.score == pytest.approx(total, abs=1e-5)


def test_a_large_model_writes_for_a_pair_with_another_tokenizer():
    writer = w2s.load((tiny_model(llama_config(vocab_size=270, eos_token_id=EOS), 9),
                       byte_level(270)))  # fmt: skip
    pair = family_pair("llama", "byte_fallback")
    plan = w2s.SearchPlan(2, 2, 5, max_new_tokens=14)
    scorer = w2s.TextBridgeScorer(*pair, plan)
    found = w2s.search(PROMPTS, w2s.LocalProposer(writer, plan), scorer, plan)
    for result in found:
        for candidate in result.candidates:
            assert candidate.text == text_of(writer.tokenizer, candidate.tokens, True)
            ids = pair_tokens(pair, writer.tokenizer, candidate.tokens, True)
            expected = scratch(pair, result.prompt, ids)
            assert candidate.score == pytest.approx(expected, abs=1e-5)


def test_scoring_the_texts_of_a_search_gives_its_scores():
    writer, pair = every_kind()["byte_level"], family_pair("llama", "unigram")
    plan = w2s.SearchPlan(1, 1, 3, max_new_tokens=9)
    ids = writer(TEXTS[0], add_special_tokens=False)["input_ids"]
    rows = [ids[:9], ids[4:13], [*ids[:4], EOS, -1, -1, -1, -1], ids[2:11]]
    rounds = [[row[begin : begin + 3] for row in rows] for begin in (0, 3, 6)]
    for row in range(4):
        proposer = w2s.ReplayProposer([[step[row]] for step in rounds], EOS, writer)
        scorer = w2s.TextBridgeScorer(*pair, plan)
        best = w2s.search(["The film"], proposer, scorer, plan)[0].best
        eos = best.finish_reason == "eos"
        [expected] = w2s.score(["The film"], [best.text], pair, eos=eos)
        assert best.score == pytest.approx(expected.total, abs=1e-5)


@pytest.mark.parametrize("has_end", [True, False])
def test_an_end_is_scored_once_and_only_where_both_have_one(has_end):
    writer, (tuned, untuned) = every_kind()["byte_level"], table_pair("unigram")
    pair = [tuned, untuned]
    if not has_end:
        tokenizer = copy.deepcopy(tuned.tokenizer)
        tokenizer.eos_token = None
        pair = [
            w2s.load((TableModel(random_table(seed, vocab=len(tokenizer)), None), tokenizer))
            for seed in (1, 2)
        ]
    plan = w2s.SearchPlan(1, 3, 4, max_new_tokens=20)
    scorer = started(pair, plan, writer, ["The film"], 3)
    ids = writer(" was a wonder", add_special_tokens=False)["input_ids"][:4]
    first = scorer.score(chunk_of([ids, [*ids[:3], EOS], ids], [False, True, False]))
    # Row 0 ends by its EOS alone, row 1 has ended, row 2 ends without a token (a recording's end).
    found = scorer.score(chunk_of([[EOS], [], []], [True, True, True]))
    assert found[1] == first[1]
    assert found[2] == first[2]
    for row, tokens in ((0, [*ids, EOS]), (1, [*ids[:3], EOS])):
        expected = pair_tokens(pair, writer, tokens, True)
        expected = expected if has_end else expected[:-1]
        assert float(found[row]) == pytest.approx(scratch(pair, "The film", expected), abs=1e-5)


def test_a_stop_string_is_scored_as_it_was_written():
    tokenizer = byte_level(270)
    table = torch.full((97, len(tokenizer)), -1.0)
    table[:, tokenizer("a", add_special_tokens=False)["input_ids"][0]] = 9.0
    writer, pair = w2s.load((TableModel(table, EOS), tokenizer)), table_pair("unigram")
    plan = w2s.SearchPlan.greedy(max_new_tokens=9, stop="aaa")
    scorer = w2s.TextBridgeScorer(*pair, plan)
    best = w2s.search(["The film"], w2s.LocalProposer(writer, plan), scorer, plan)[0].best
    assert (best.text, best.finish_reason) == ("", "stop")
    ids = pair[0].tokenizer("aaa", add_special_tokens=False)["input_ids"]
    assert best.score == pytest.approx(scratch(pair, "The film", ids), abs=1e-5)


def test_a_text_may_have_more_tokens_than_the_plan():
    """Words of the writer are many bytes for the pair: its caches grow past their first bucket."""
    writer, pair = word_level(), table_pair("byte_level_small")
    plan = w2s.SearchPlan(1, 2, 20, max_new_tokens=100)
    words = [token for token in range(3, len(writer)) if len(writer.decode([token])) > 2]
    rows = [(words * 4)[:100], (words[::-1] * 4)[:100]]
    scorer = started(pair, plan, writer, ["a"], 2)
    for begin in range(0, 100, 20):
        found = scorer.score(chunk_of([row[begin : begin + 20] for row in rows], [False, False]))
    for row, total in zip(rows, found.tolist(), strict=True):
        ids = pair_tokens(pair, writer, row, True)
        assert len(ids) > 300
        assert total == pytest.approx(scratch(pair, "a", ids), abs=1e-4)


def test_a_text_that_outgrows_the_pairs_positions_is_refused_by_its_row():
    tokenizer = byte_level(270)
    config = gpt2_config(vocab_size=270, eos_token_id=EOS, n_positions=40)
    pair = [w2s.load((tiny_model(config, seed), tokenizer)) for seed in (0, 1)]
    plan = w2s.SearchPlan(1, 2, 10, max_new_tokens=30)
    scorer = started(pair, plan, word_level(), ["abc"], 2)
    short = word_level()("a a a a", add_special_tokens=False)["input_ids"]
    words = "wonder ending wooden again the film"
    long = word_level()(words, add_special_tokens=False)["input_ids"]
    message = r"text of row 1 \(prompt 0, candidate 1\) has 60 tokens .* 3 .* its 40 positions"
    with pytest.raises(w2s.SearchError, match=message):
        scorer.score(chunk_of([short, [*long, *long]], [False, False]))
    scorer.start(["abc"], 2)
    fits = scorer.score(chunk_of([short, long], [False, False]))
    for row, total in zip((short, long), fits.tolist(), strict=True):
        ids = pair_tokens(pair, word_level(), row, False)
        assert total == pytest.approx(scratch(pair, "abc", ids), abs=1e-5)


def test_an_ensemble_binds_the_bridges_in_it():
    writer = w2s.load((TableModel(random_table(3, vocab=270), EOS), byte_level(270)))
    plan = w2s.SearchPlan(2, 2, 4, max_new_tokens=10)

    def found(scorer):
        return w2s.search(PROMPTS, w2s.LocalProposer(writer, plan), scorer, plan)

    pair = table_pair("unigram")
    alone = found(w2s.TextBridgeScorer(*pair, plan))
    assert found(w2s.EnsembleScorer([w2s.TextBridgeScorer(*pair, plan)], [1.0])) == alone


def test_guide_takes_a_pair_with_another_tokenizer():
    writer = w2s.load((TableModel(random_table(3, vocab=270), EOS), byte_level(270)))
    pair, plan = table_pair("unigram"), w2s.SearchPlan(2, 2, 4, max_new_tokens=10)
    scorer = w2s.TextBridgeScorer(*pair, plan)
    expected = w2s.search(PROMPTS, w2s.LocalProposer(writer, plan), scorer, plan)
    assert w2s.guide(PROMPTS, writer, pair, plan) == expected
    with pytest.raises(w2s.VocabularyError, match="differ in"):
        w2s.guide(PROMPTS, writer, pair, plan, bridge=False)
    with pytest.raises(w2s.VocabularyError, match="tokens"):
        w2s.guide([[5]], (writer.module, None), pair, plan)


def test_a_source_decodes_for_a_proposer_that_cannot():
    writer, pair = byte_level(270), table_pair("unigram")
    plan = w2s.SearchPlan(1, 1, 4, max_new_tokens=4)
    ids = writer("film", add_special_tokens=False)["input_ids"][:4]
    with pytest.raises(w2s.SearchError, match="ReplayProposer has no tokenizer to decode"):
        w2s.search(["a"], w2s.ReplayProposer([[ids]]), w2s.TextBridgeScorer(*pair, plan), plan)
    named = w2s.TextBridgeScorer(*pair, plan, source=writer)
    best = w2s.search(["a"], w2s.ReplayProposer([[ids]]), named, plan)[0].best
    assert best.score == pytest.approx(
        scratch(pair, "a", pair_tokens(pair, writer, ids, True)), abs=1e-5
    )


def test_what_cannot_be_bridged_is_refused():
    plan, pair = w2s.SearchPlan(), table_pair("unigram")
    with pytest.raises(w2s.SearchError, match="does not know who writes"):
        w2s.TextBridgeScorer(*pair, plan).start(["a"], 1)
    with pytest.raises(w2s.SearchError, match="Model has no tokenizer"):
        w2s.TextBridgeScorer(*pair, plan, source=w2s.load((pair[0].module, None)))
    with pytest.raises(w2s.VocabularyError, match="differ in"):
        w2s.TextBridgeScorer(pair[0], table_pair("word_piece")[1], plan)
    with pytest.raises(w2s.ModelError, match="no tokenizer"):
        w2s.TextBridgeScorer((pair[0].module, None), pair[1], plan)
    with pytest.raises(w2s.PromptError, match="prompt 0 is empty"):
        started(pair, plan, byte_level(270), [""], 1)
