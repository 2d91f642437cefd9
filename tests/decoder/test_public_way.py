"""The end-to-end comparison: both searches agree, and the public way does what it claims."""

import json

import pytest
import torch
from our_search import OurSearch, differences
from part_clock import REST, UNCOUNTED, PartClock
from public_search import NEAR, Drawn, PublicSearch, SelectionMismatch, cache_bytes
from public_way import main
from transformers import DynamicCache

import w2s
from support.tiny import gpt2_config, llama_config, tiny_model, word_tokenizer

PROMPTS = [[5, 6, 7], [9, 11], [4, 4, 8, 10, 12, 30, 2]]
MODELS = [
    w2s.load((tiny_model(config, seed), word_tokenizer()))
    for seed, config in enumerate((llama_config(), gpt2_config(), gpt2_config()))
]
ROWS, LIMIT = 16, 13


def searches(**settings):
    plan = w2s.SearchPlan(**{"max_new_tokens": LIMIT, "top_k": 20, "clones": True, **settings})
    clock = PartClock(torch.device("cpu"))
    return plan, clock, OurSearch(*MODELS, plan, clock), PublicSearch(*MODELS, plan, clock)


@pytest.mark.parametrize("drawn", [True, False], ids=["its own draws", "recorded draws"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 2.0, "top_k": 0},  # many rows end early
        {"width": 2, "samples": 3, "chunk": 4},
        {"width": 1, "samples": 8, "chunk": None},
        {"width": 1, "samples": 1, "chunk": 5, "temperature": 0.0},
    ],
)
def test_both_searches_keep_and_find_the_same(settings, drawn):
    plan, _, ours, public = searches(**settings)
    record = ours.record(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        recorded = record.of_prompt(number, plan, MODELS[0])
        found = public(prompt, Drawn(plan, number, MODELS[0]) if drawn else recorded)
        assert differences(record.results[number], found, NEAR) == []
        assert found.texts[0] == record.results[number].best.text
        assert found.parents == recorded.kept[: len(found.parents)]
        assert found.near_ties == 0
        assert len(found.parents) == len(recorded.rounds) - 1


def test_rows_that_ended_are_among_the_cases_compared():
    _, _, ours, _ = searches(temperature=2.0, top_k=0)
    candidates = [c for result in ours.record(PROMPTS).results for c in result.candidates]
    assert 0 < sum(c.finished for c in candidates) < len(candidates)


def test_the_public_way_does_the_work_it_is_said_to_do():
    plan, _, ours, public = searches()
    recorded = ours.record(PROMPTS[:1]).of_prompt(0, plan, MODELS[0])
    work = public(PROMPTS[0], recorded).work
    prompt, lengths = len(PROMPTS[0]), [5, 10, LIMIT]  # of the response when it is scored
    assert work.prefilled_rows == ROWS
    assert work.prefilled_tokens == ROWS * prompt
    assert work.decode_steps == LIMIT
    assert work.scored_tokens == sum(ROWS * (prompt + n) for n in lengths)
    assert work.logprob_bytes == ROWS * (prompt + LIMIT - 1) * MODELS[1].columns * 4
    config = MODELS[0].module.config
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * 4
    # The last token of a response is not in the cache yet.
    assert work.gathered_bytes == sum(ROWS * (prompt + n - 1) * token for n in lengths[:-1])


def test_cache_bytes_counts_keys_and_values_of_all_layers():
    cache = DynamicCache()
    for layer in range(3):
        cache.update(torch.zeros(2, 4, 5, 6), torch.zeros(2, 4, 5, 6), layer)
    assert cache_bytes(cache) == 3 * 2 * (2 * 4 * 5 * 6) * 4


def test_another_selection_is_refused():
    plan, _, ours, public = searches()
    recorded = ours.record(PROMPTS[:1]).of_prompt(0, plan, MODELS[0])
    worst = [row for row in range(ROWS) if row not in recorded.kept[0]][:4]
    recorded.kept[0] = [row for row in worst for _ in range(4)]
    with pytest.raises(SelectionMismatch, match="chunk 0"):
        public(PROMPTS[0], recorded)


def test_other_scores_texts_or_candidates_are_differences():
    plan, _, ours, public = searches()
    record = ours.record(PROMPTS[:1])
    found = public(PROMPTS[0], record.of_prompt(0, plan, MODELS[0]))
    found.scores[0] += 1.0
    assert differences(record.results[0], found, NEAR)
    found.scores[0] -= 1.0
    found.texts[3] += "!"
    assert differences(record.results[0], found, NEAR) == ["texts at place 3 differ"]
    found.tokens.pop()
    assert differences(record.results[0], found, NEAR) == ["16 and 15 candidates"]


def test_the_parts_add_up_and_the_uncounted_is_left_out(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0])
    monkeypatch.setattr("part_clock.time.perf_counter", lambda: next(now))
    clock = PartClock(torch.device("cpu"))  # 0
    with clock.part("outer"), clock.part("inner"):  # 1, 3
        pass  # 6, 10
    with clock.part(UNCOUNTED):  # 15
        pass  # 21
    assert clock.stop() == {REST: 1.0 + 5.0 + 7.0, "outer": 2.0 + 4.0, "inner": 3.0}  # 28


@pytest.mark.slow
def test_the_comparison_writes_a_stamped_report(tmp_path, capsys):
    path = tmp_path / "new" / "report.json"
    options = ["--models", "tiny", "--prompts", "2", "--new-tokens", "12", "--repeats", "1"]
    assert main([*options, "--threads", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["stamp"]["cpu"]["cores"] >= 1
    assert report["unprescribed"] == {"different": [], "equal_selections": True}
    assert [run["prompts"] for run in report["runs"]] == [2]
    for run in report["runs"]:
        assert run["peak_bytes"]["public"] > 0
        assert run["near_ties"] == 0
        for who in ("ours", "public"):
            assert sum(run["parts"][who].values()) == pytest.approx(run["seconds"][who][0])
    assert "| prompts | public way | ours |" in capsys.readouterr().out
