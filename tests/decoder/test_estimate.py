"""`plan.estimate` against what a search really allocates, from models and from configs alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

import w2s
from support.memory import TensorMemory
from support.tiny import gpt2_config, llama_config
from w2s.estimate import from_configs, size

_ENDLESS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def large_config(**settings):
    """Large enough that tensors, and not bookkeeping, take the memory."""
    shape = {
        "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    }  # fmt: skip
    return llama_config(**{**shape, **_ENDLESS, **settings})


def small_config(**settings):
    shape = {
        "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    return large_config(**{**shape, **settings})


def gemma2_config():
    return Gemma2Config(
        vocab_size=8192, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, sliding_window=64,
        attn_implementation="eager", **_ENDLESS,
    )  # fmt: skip


def gpt2():
    return gpt2_config(
        vocab_size=8192, n_embd=256, n_layer=4, n_head=8, n_positions=1024,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def model(config, dtype=torch.float32):
    torch.manual_seed(0)
    return w2s.load((AutoModelForCausalLM.from_config(config, dtype=dtype), None))


def prompts_of(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(8000, (n,), generator=generator).tolist() for n in lengths]


CASES = {
    "search": (large_config, small_config, w2s.SearchPlan(max_new_tokens=11), [20, 50, 33, 7]),
    "best of N": (large_config, small_config, w2s.SearchPlan.bon(max_new_tokens=30), [20, 50]),
    "long prompts": (
        large_config, small_config, w2s.SearchPlan(2, 2, max_new_tokens=5), [1500, 900],
    ),
    "growth": (large_config, small_config, w2s.SearchPlan(2, 2, max_new_tokens=60), [210, 220]),
    "beams": (large_config, None, w2s.SearchPlan.beam(4, max_new_tokens=20), [60] * 8),
    "samples": (large_config, None, w2s.SearchPlan.sample(max_new_tokens=20), [60] * 40),
    "gpt2": (gpt2, None, w2s.SearchPlan.bon(8, max_new_tokens=20), [300] * 4),
    "eager": (gemma2_config, None, w2s.SearchPlan(max_new_tokens=20), [100] * 4),
    "wide heads": (
        lambda: large_config(vocab_size=65536), lambda: small_config(vocab_size=65536),
        w2s.SearchPlan(max_new_tokens=10), [50] * 4,
    ),
}  # fmt: skip


_FAST = ("search", "long prompts", "beams")  # in fp32; the others are slow


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
    ids=["fp32", "bf16"],
)
@pytest.mark.parametrize(
    ("large", "small", "plan", "lengths"),
    [
        pytest.param(*case, id=name, marks=() if name in _FAST else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_the_estimate_is_near_what_a_search_allocates(large, small, plan, lengths, dtype):
    models = [model(config(), dtype) for config in (large, small, small) if config is not None]
    prompts = prompts_of(lengths)
    estimate = plan.estimate(models, prompts)
    weights = [t for m in models for t in (*m.module.parameters(), *m.module.buffers())]
    memory = TensorMemory()
    memory.ignore(weights)
    with memory:
        w2s.guide(prompts, large=models[0], pair=tuple(models[1:]) or None, plan=plan)
    # Without the weights, which are known exactly and would only hide an error.
    assert 0.9 * memory.peak <= estimate.needed <= 1.25 * memory.peak
    assert estimate.total - estimate.needed == sum(
        {t.untyped_storage().data_ptr(): t.nbytes for t in weights}.values()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [large_config, gpt2, gemma2_config])
def test_a_config_alone_gives_the_estimate_of_its_model(config, dtype):
    plan = w2s.SearchPlan(max_new_tokens=30)
    loaded = plan.estimate([model(config(), getattr(torch, dtype))] * 3, prompts_of([40, 70]))
    alone = from_configs([config()] * 3, plan, [40, 70], dtype=dtype)
    # The same module given three times has its weights once; three configs are three models.
    assert alone.total == loaded.total + 2 * loaded.roles[0].weights
    assert alone.needed == alone.total
    assert [role.kv for role in alone.roles] == [role.kv for role in loaded.roles]
    one = plan.estimate((config(), dtype, "cpu"), [70, 40])
    assert one.total == from_configs([config()], plan, [40, 70], dtype=dtype).total


@pytest.mark.parametrize(("prompt", "new"), [(10, 20), (250, 20), (300, 600), (1023, 2), (5, 900)])
def test_the_cache_is_counted_as_it_grows(prompt, new):
    one = model(large_config(num_hidden_layers=1))
    plan = w2s.SearchPlan.sample(max_new_tokens=new)
    cache = one.new_cache([prompt] * 3, 1, prompt + new)
    last = prompt + new - 1
    position = torch.full((3, 1), last - 1)
    one.prefill([[1] * prompt] * 3, cache)
    slots = prompt
    while slots < last:  # a token at a time, but only those that make it grow
        slots = min(cache.capacity + 1, last)
        one.hidden(torch.ones(3, 1, dtype=torch.long), position.clamp(max=slots - 1), slots, cache)
    allocated = sum(tensor.nbytes for tensor in cache.caches)
    assert plan.estimate(one, [prompt] * 3).roles[0].kv == allocated


def test_as_many_prompts_fit_as_the_estimate_says():
    plan, config = w2s.SearchPlan(max_new_tokens=30), large_config()

    def needed(prompts):
        return from_configs([config] * 3, plan, [40] * prompts).needed

    free = needed(7)
    assert from_configs([config] * 3, plan, [40]).prompts_that_fit(free) == 7
    assert from_configs([config] * 3, plan, [40]).prompts_that_fit(free - 1) == 6
    assert from_configs([config] * 3, plan, [40]).prompts_that_fit(needed(1) - 1) == 0
    assert from_configs([config] * 3, plan, [40] * 6).per_prompt == needed(7) - needed(6)


def test_the_pair_takes_more_when_it_also_writes():
    plan, configs = w2s.SearchPlan(max_new_tokens=30), [large_config()] * 3
    alone, guided = (from_configs(configs, plan, [40], guided=g) for g in (False, True))
    assert guided.roles[1].kv == 2 * alone.roles[1].kv
    assert guided.total > alone.total


def test_the_estimate_reads_well():
    text = str(from_configs([large_config()] * 3, w2s.SearchPlan(), [40, 30]))
    assert text.split("\n")[0].endswith(" MiB for 2 prompts at once (32 rows)")
    for part in ("large: weights", "untuned: weights", "KV cache", "each further prompt"):
        assert part in text
    assert [size(n) for n in (17, 1536, 3 << 30)] == ["17 B", "1.5 KiB", "3.0 GiB"]


def test_what_cannot_be_estimated_is_refused():
    plan = w2s.SearchPlan()
    with pytest.raises(w2s.SearchError, match="at least one prompt"):
        from_configs([large_config()], plan, [])
    with pytest.raises(w2s.SearchError, match=r"one model or \(large, tuned, untuned\), got 2"):
        from_configs([large_config()] * 2, plan, [4])
    with pytest.raises(w2s.SearchError, match="must be lengths in tokens"):
        plan.estimate((large_config(), "float32", "cpu"), ["a text"])
    with pytest.raises(w2s.ModelError, match="takes a Model or"):
        plan.estimate(["gpt2"], [4])
    with pytest.raises(w2s.ModelError, match="float3"):
        plan.estimate((large_config(), "float3", "cpu"), [4])
