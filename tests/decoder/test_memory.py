"""Free memory, batches that are cut to it, and what is said when it was not enough."""

import pytest
import torch

import w2s
from support.tiny import TableModel, llama_config, random_table, tiny_model
from w2s import memory
from w2s.batching import choose_batch

PLAN = w2s.SearchPlan(2, 2, 3, max_new_tokens=6)
PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10], [11, 12], [20], [21, 22]]


@pytest.fixture(scope="module")
def models():
    return tuple(w2s.load((tiny_model(llama_config(), seed), None)) for seed in (1, 2, 3))


@pytest.fixture
def free(monkeypatch):
    """Makes so many bytes of memory free."""
    return lambda count: monkeypatch.setattr("w2s.batching.available_memory", lambda _: count)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A /proc and a /sys/fs/cgroup with 1000 KiB available and no groups."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    write(tmp_path / "proc", meminfo="MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    return tmp_path


def test_without_groups_the_system_says_what_is_free(machine):
    assert memory.available_memory("cpu") == 1000 * 1024


def test_the_group_nearest_its_limit_counts(machine):
    write(machine / "proc" / "self", cgroup="0::/outer/inner\n")
    outer, inner = machine / "cgroup" / "outer", machine / "cgroup" / "outer" / "inner"
    write(inner, memory__max="max\n", memory__current="70000\n")
    assert memory.available_memory("cpu") == 1000 * 1024
    write(outer, memory__max="100000\n", memory__current="70000\n")
    assert memory.available_memory("cpu") == 30000
    write(outer, memory__stat="anon 5\ninactive_file 10000\n")
    assert memory.available_memory("cpu") == 40000  # files are given back
    write(inner, memory__max="75000\n")
    assert memory.available_memory("cpu") == 5000


def test_a_group_of_version_1_counts_too(machine):
    write(machine / "proc" / "self", cgroup="5:cpu,cpuacct:/job\n4:memory:/job\n")
    folder = machine / "cgroup" / "memory"
    write(folder / "job", **{"memory.limit_in_bytes": "9000", "memory.usage_in_bytes": "2000"})
    assert memory.available_memory("cpu") == 7000


def test_a_containers_own_root_counts_when_the_path_is_the_hosts(machine):
    write(machine / "proc" / "self", cgroup="0::/host/only\n")
    write(machine / "cgroup", memory__max="5000\n", memory__current="6000\n")
    assert memory.available_memory("cpu") == 0


def test_a_system_that_does_not_say_gives_none(machine, models):
    (machine / "proc" / "meminfo").unlink()
    assert memory.available_memory("cpu") is None
    assert choose_batch(PLAN, models, PROMPTS).prompts == 64


def test_guide_splits_a_long_list_and_draws_the_same(models, free):
    pair = models[1:]
    whole = w2s.guide(PROMPTS, large=models[0], pair=pair, plan=PLAN)
    seen = []
    needed = PLAN.estimate(models, PROMPTS).needed_for(2)
    free(int(needed / 0.8) + 1)
    split = w2s.guide(
        PROMPTS, large=models[0], pair=pair, plan=PLAN, on_chunk=lambda t: seen.append(len(t.best))
    )
    assert seen == [2] * 6  # three batches of two prompts, two rounds each
    by_number = w2s.guide(PROMPTS, large=models[0], pair=pair, plan=PLAN, batch=1)
    for results in (split, by_number):
        assert [r.prompt for r in results] == PROMPTS
        assert [r.best.tokens for r in results] == [r.best.tokens for r in whole]


def test_what_does_not_fit_is_refused_before_anything_is_allocated(models, free):
    free(PLAN.estimate(models, PROMPTS).needed_for(3))
    with pytest.raises(w2s.SearchError, match=r"batch 4 needs .* lower batch \(3 would fit\)"):
        w2s.guide(PROMPTS, large=models[0], pair=models[1:], plan=PLAN, batch=4)
    free(1000)
    with pytest.raises(w2s.SearchError, match=r"one prompt \(4 rows .* lower samples, width"):
        w2s.guide(PROMPTS, large=models[0], pair=models[1:], plan=PLAN)
    with pytest.raises(w2s.SearchError, match="batch is 0; it must be auto or a whole number"):
        w2s.guide(PROMPTS, large=models[0], pair=None, plan=PLAN, batch=0)


def test_a_model_of_unknown_sizes_is_not_limited(free):
    free(1000)
    table = w2s.load((TableModel(random_table(1)), None))
    assert len(w2s.guide(PROMPTS, large=table, pair=None, plan=PLAN)) == len(PROMPTS)


CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: x"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU)])
def test_running_out_of_memory_names_the_settings_to_lower(models, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(w2s.PairScorer, "score", fail)
    with pytest.raises(
        w2s.SearchError, match=r"6 prompts \(24 rows\) at once; lower their number, samples"
    ) as e:
        w2s.guide(PROMPTS, large=models[0], pair=models[1:], plan=PLAN)
    assert e.value.__cause__ is error


def test_a_request_that_the_allocator_refuses_is_running_out_of_memory():
    with (
        pytest.raises(w2s.SearchError, match="out of memory while trying; lower your hopes"),
        memory.memory_errors("trying", "your hopes"),
    ):
        torch.empty(1 << 60)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="another"), memory.memory_errors("trying", "x"):
        raise RuntimeError("another")
