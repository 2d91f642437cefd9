"""The pipeline: what it writes is the kernel's result, however inputs and result are cut."""

import threading
import time

import pytest
import torch

from support.weight_files import (
    like_aligned,
    near,
    random_tensors,
    same_bytes,
    store,
    streamed,
    tasks_of,
)
from w2s.errors import ExpoError
from w2s.expo import pieces
from w2s.expo.layout import lay_out
from w2s.expo.tasks import TensorTask
from w2s_kernels import extrapolate, key_of

ALIGNED = {**random_tensors(seed=1), "wide": random_tensors(2, torch.float32)["layer.1.weight"],
           "steps": torch.arange(5)}  # fmt: skip
BASE = near(ALIGNED, seed=3)
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@pytest.fixture
def pair(tmp_path):
    return store(tmp_path / "base", BASE), store(tmp_path / "aligned", ALIGNED)


def expected(alpha, rounding="nearest", seed=0, out_code=None):
    found = {}
    for name, value in ALIGNED.items():
        if value.is_floating_point():
            dtype = DTYPES.get(out_code, value.dtype)
            value = extrapolate(
                value, BASE[name], alpha, rounding=rounding, key=key_of(name, seed), out_dtype=dtype
            )
        found[name] = value
    return found


@pytest.fixture
def tiny_pieces(monkeypatch):
    """Pieces of 64 bytes, so that every tensor has many."""
    monkeypatch.setattr(pieces, "PIECE", 64)


@pytest.mark.parametrize("out_code", [None, "F32", "F16", "F64"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_the_result_is_the_kernel_s_on_whole_tensors(tmp_path, pair, rounding, out_code):
    base, aligned = pair
    tasks = tasks_of(base, aligned, 0.3, out_code)
    layouts = like_aligned(tasks, aligned)
    found, _ = streamed(tmp_path / "out", layouts, rounding=rounding, seed=5)
    assert same_bytes(found, expected(0.3, rounding, 5, out_code))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_pieces_change_no_bit(tmp_path, pair, rounding, tiny_pieces):
    base, aligned = pair
    layouts = like_aligned(tasks_of(base, aligned), aligned)
    found, _ = streamed(tmp_path / "out", layouts, rounding=rounding, seed=5)
    assert same_bytes(found, expected(0.3, rounding, 5))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_the_cutting_of_inputs_and_result_changes_no_bit(tmp_path, kind, shards):
    base = store(tmp_path / "base", BASE, 6 - shards, "bin")
    aligned = store(tmp_path / "aligned", ALIGNED, shards, kind)
    tasks = tasks_of(base, aligned)
    wanted = expected(0.3, "stochastic", 7)
    _, whole = streamed(tmp_path / "a", lay_out([tasks], like_aligned=False))
    cuts = (like_aligned(tasks, aligned), lay_out([[task] for task in tasks], like_aligned=False))
    for number, layouts in enumerate(cuts):
        out = tmp_path / f"out{number}"
        found, sums = streamed(out, layouts, rounding="stochastic", seed=7)
        assert same_bytes(found, wanted)
        assert sums.keys() == whole.keys()
        for name, value in sums.items():
            assert (value.theta1, value.delta) == (whole[name].theta1, whole[name].delta)


def test_threads_change_no_bit(tmp_path):
    aligned = random_tensors(1, sizes=((700, 900), (1000,)))
    base = store(tmp_path / "base", near(aligned))
    layouts = lay_out(
        [tasks_of(base, store(tmp_path / "aligned", aligned), 0.3)], like_aligned=True
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4, 6):  # of these the kernel gets 1, 2, 4
            torch.set_num_threads(threads)
            results.append(streamed(tmp_path / str(threads), layouts, rounding="stochastic"))
    finally:
        torch.set_num_threads(before)
    for found, sums in results[1:]:
        assert same_bytes(found, results[0][0])
        assert sums == results[0][1]


def test_alpha_0_is_theta1_bit_for_bit(tmp_path, pair):
    base, aligned = pair
    layouts = like_aligned(tasks_of(base, aligned, 0.0), aligned)
    found, sums = streamed(tmp_path / "out", layouts, rounding="stochastic")
    assert same_bytes(found, ALIGNED)
    assert sums["layer.0.weight"].effective_alpha == 0


def test_the_sums_are_those_of_float64(tmp_path, pair, tiny_pieces):
    base, aligned = pair
    layouts = like_aligned(tasks_of(base, aligned), aligned)
    found, sums = streamed(tmp_path / "out", layouts)
    assert [*sums] == [*aligned.tensors]
    for name, seen in sums.items():
        if name == "steps":
            assert (seen.elements, seen.theta1, seen.delta) == (0, 0.0, 0.0)
            continue
        one, two, out = (each[name].double() for each in (ALIGNED, BASE, found))
        delta = one - two
        assert (seen.elements, seen.alpha, seen.overflowed) == (one.numel(), 0.3, 0)
        assert seen.theta1 == pytest.approx((one * one).sum().item(), rel=1e-12)
        assert seen.delta == pytest.approx((delta * delta).sum().item(), rel=1e-12)
        assert seen.along == pytest.approx(((out - one) * delta).sum().item(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("rows", [0, 1, 33, 50])
@pytest.mark.parametrize("out_code", ["BF16", "F32", "F16"])
def test_rows_that_only_theta1_has_are_copied(tmp_path, rows, out_code, tiny_pieces):
    aligned = store(tmp_path / "aligned", {"embed": ALIGNED["layer.0.weight"]})
    older = BASE["layer.0.weight"][:rows].clone()
    base = store(tmp_path / "base", {"embed": older})
    task = TensorTask(aligned.tensors["embed"], base.tensors["embed"], 2.0, out_code, rows)
    found, sums = streamed(tmp_path / "out", lay_out([[task]], like_aligned=True))
    new = ALIGNED["layer.0.weight"]
    dtype = DTYPES[out_code]
    common = extrapolate(new[:rows], older, 2.0, out_dtype=dtype)
    assert same_bytes(found, {"embed": torch.cat([common, new[rows:].to(dtype)])})
    assert sums["embed"].elements == rows * 24


def test_a_copied_tensor_is_rounded_once_by_the_recipe_s_rounding(tmp_path):
    value = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 1e-3
    aligned = store(tmp_path / "aligned", {"w": value, "big": torch.full((4,), 1e6)})
    tasks = [TensorTask(each, None, 0.0, "F16") for each in aligned.tensors.values()]
    layouts = lay_out([tasks], like_aligned=True)
    near_it, sums = streamed(tmp_path / "nearest", layouts)
    assert torch.equal(near_it["w"], value.half())
    assert (sums["big"].elements, sums["big"].overflowed) == (0, 4)
    dithered, _ = streamed(tmp_path / "stochastic", layouts, rounding="stochastic", seed=4)
    wanted = extrapolate(
        value, value, 0.0, rounding="stochastic", key=key_of("w", 4), out_dtype=torch.float16
    )
    assert torch.equal(dithered["w"], wanted)
    assert not torch.equal(dithered["w"], near_it["w"])


def test_a_tied_tensor_takes_the_other_s_random_bits(tmp_path):
    twice = {"embed": ALIGNED["layer.0.weight"], "head": ALIGNED["layer.0.weight"].clone()}
    aligned = store(tmp_path / "aligned", twice)
    base = store(tmp_path / "base", near(twice | {"head": twice["embed"]}, scale=0.0))
    base_embed = base.tensors["embed"]
    tasks = [
        TensorTask(aligned.tensors["embed"], base_embed, 0.3, "F16"),
        TensorTask(aligned.tensors["head"], base_embed, 0.3, "F16", drawn_as="embed"),
    ]
    layouts = lay_out([tasks], like_aligned=True)
    found, _ = streamed(tmp_path / "out", layouts, rounding="stochastic")
    assert torch.equal(found["embed"], found["head"])


def test_empty_tensors_and_shards_of_nothing_else_are_written(tmp_path):
    aligned = store(tmp_path / "aligned", {"a": torch.empty(0, 4), "b": torch.empty(3, 0).half()})
    layouts = lay_out([tasks_of(aligned, aligned)], like_aligned=True)
    found, _ = streamed(tmp_path / "out", layouts)
    assert found["a"].shape == (0, 4)
    assert found["b"].shape == (3, 0)


class Failing:
    """A stored tensor whose bytes cannot be read from `after` on, or come slowly."""

    def __init__(self, stored, after=0, error=None, delay=0.0):
        self._stored, self._after, self._error, self._delay = stored, after, error, delay

    def __getattr__(self, name):
        return getattr(self._stored, name)

    def read_into(self, buffer, begin):
        time.sleep(self._delay)
        if self._error and begin >= self._after:
            raise self._error
        self._stored.read_into(buffer, begin)


def our_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("expo-")]


def failing(pair, **how):
    """The layout of a run in which one tensor of θ₀ fails."""
    base, aligned = pair
    tasks = tasks_of(base, aligned)
    tasks[2] = TensorTask(tasks[2].aligned, Failing(tasks[2].base, **how), 0.3, "BF16")
    return like_aligned(tasks, aligned)


def test_an_error_while_reading_ends_both_threads(tmp_path, pair, tiny_pieces):
    layouts = failing(pair, after=16, error=ExpoError("w cannot be read from that file"))
    with pytest.raises(ExpoError, match="w cannot be read from that file"):
        streamed(tmp_path / "out", layouts)
    assert not our_threads()


def test_an_error_while_writing_ends_both_threads_and_names_the_file(tmp_path, pair, tiny_pieces):
    base, aligned = pair
    layouts = like_aligned(tasks_of(base, aligned), aligned)
    (tmp_path / "out" / "model.safetensors.tmp").mkdir(parents=True)
    with pytest.raises(ExpoError, match=r"out/model\.safetensors cannot be written"):
        streamed(tmp_path / "out", layouts)
    assert not our_threads()


def test_progress_is_told_while_a_read_takes_its_time(tmp_path, pair):
    told = []
    layouts = failing(pair, delay=0.7)
    start = time.monotonic()
    streamed(tmp_path / "out", layouts, on_progress=lambda *seen: told.append(seen))
    assert len(told) >= 5 * (time.monotonic() - start)
    done = [now for now, _ in told]
    assert done == sorted(done)
    assert done[0] == 0
    everything = 3 * sum(value.nbytes for value in ALIGNED.values()) - ALIGNED["steps"].nbytes
    assert told[-1] == (everything, everything)


def test_ctrl_c_ends_both_threads_at_once(tmp_path, pair, tiny_pieces):
    def interrupt(done, total):
        if done > total / 4:
            raise KeyboardInterrupt

    layouts = failing(pair, delay=0.1)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        streamed(tmp_path / "out", layouts, on_progress=interrupt)
    assert time.monotonic() - start < 1
    assert not our_threads()
