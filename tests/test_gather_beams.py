"""gather_beams_ and gather_beams against a full index_select, on every backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2s_kernels
from w2s_kernels import gather_beams, gather_beams_
from w2s_kernels.errors import (
    DeviceError,
    DtypeError,
    LayoutError,
    RangeError,
    ShapeError,
)
from w2s_kernels.ops.gather_beams import example_inputs


def slow(cache: Tensor, parent: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Every row gathered from a copy of the old cache, then put back on its own positions."""
    old, new = cache.clone(), cache.clone()
    for row in range(cache.shape[0]):
        for position in range(int(start[row]), int(stop[row])):
            new[row, :, position] = old[int(parent[row]), :, position]
    return new


def test_200_rounds_of_random_maps_equal_a_full_gather(backend_once):
    generator = torch.Generator().manual_seed(0)
    for round_ in range(200):
        rows = int(torch.randint(1, 12, (), generator=generator))
        caches, parent, start, stop = example_inputs(
            rows, layers=2, heads=2, length=6, size=3, seed=round_
        )
        if round_ % 2:  # permutations: cycles only
            parent = torch.randperm(rows, generator=generator)
        expected = [slow(cache, parent, start, stop) for cache in caches]
        gather_beams_(caches, parent, start, stop)
        assert all(map(torch.equal, caches, expected)), (round_, parent, start, stop)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_backends_read_every_row_before_they_write_one(data):
    rows, length = data.draw(st.integers(1, 7)), 5
    position, row = st.integers(0, length), st.integers(0, rows - 1)
    parent = torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    ends = data.draw(st.lists(st.tuples(position, position), min_size=rows, max_size=rows))
    start, stop = (torch.tensor([pick(e) for e in ends]) for pick in (min, max))
    cache = torch.arange(rows * length).reshape(rows, 1, length, 1)
    expected = slow(cache, parent, start, stop)
    for backend, refused in w2s_kernels.dispatch.available()["gather_beams_"].items():
        if refused is None:
            with w2s_kernels.dispatch.use(backend):
                found = cache.clone()
                gather_beams_([found], parent, start, stop)
                assert torch.equal(found, expected)
                assert torch.equal(gather_beams([cache], parent, start, stop)[0], expected)


@pytest.mark.parametrize("rows", [1, 2, 16, 63, 1024])
def test_any_number_of_rows(backend_once, rows):
    caches, parent, start, stop = example_inputs(rows, layers=3, heads=3, length=9, size=5)
    expected = [
        torch.where(
            ((torch.arange(9) >= start[:, None]) & (torch.arange(9) < stop[:, None]))[
                :, None, :, None
            ],
            cache[parent],
            cache,
        )
        for cache in caches
    ]
    gather_beams_(caches, parent, start, stop)
    assert all(map(torch.equal, caches, expected))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool]
)
def test_any_dtype_is_copied_bit_for_bit(backend_once, dtype):
    if dtype.is_floating_point:
        caches, parent, start, stop = example_inputs(9, dtype=dtype)
        caches[0][1, 0, 0, 0] = float("nan")
    else:
        caches, parent, start, stop = example_inputs(9)
        caches = [(cache > 0).to(dtype) for cache in caches]
    expected = [slow(cache, parent, start, stop) for cache in caches]
    gather_beams_(caches, parent, start, stop)
    for cache, wanted in zip(caches, expected, strict=True):
        assert torch.equal(cache.nan_to_num(), wanted.nan_to_num())
        assert torch.equal(cache.isnan(), wanted.isnan())


def test_nothing_outside_the_range_or_the_view_is_touched(backend_once):
    sentinel = -12345.0
    storage = torch.full((11, 4, 20, 9), sentinel)
    view = storage[1:10:2, 1:3, 4:16, 2:7]  # every dimension strided or cut, the last one whole
    caches, parent, start, stop = example_inputs(5, layers=1, heads=2, length=12, size=5)
    view.copy_(caches[0])
    expected = slow(view, parent, start, stop)
    assert not view.is_contiguous()
    gather_beams_([view], parent, start, stop)
    assert torch.equal(view, expected)
    storage[1:10:2, 1:3, 4:16, 2:7] = sentinel
    assert (storage == sentinel).all()


def test_transposed_positions_and_heads_are_taken_as_they_lie(backend_once):
    caches, parent, start, stop = example_inputs(6, layers=1, heads=3, length=7, size=4)
    by_position = caches[0].transpose(1, 2).contiguous().transpose(1, 2)  # [R, T, heads, D] memory
    expected = slow(by_position, parent, start, stop)
    gather_beams_([by_position], parent, start, stop)
    assert torch.equal(by_position, expected)


def test_a_swap_needs_no_help(backend_once):
    cache = torch.arange(4.0).reshape(2, 1, 2, 1)
    gather_beams_([cache], torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2, 2]))
    assert cache.flatten().tolist() == [2, 3, 2, 1]


def test_a_chain_reads_the_old_rows(backend_once):
    cache = torch.arange(4.0).reshape(4, 1, 1, 1)
    zero, one = torch.zeros(4).long(), torch.ones(4).long()
    gather_beams_([cache], torch.tensor([0, 0, 1, 2]), zero, one)
    assert cache.flatten().tolist() == [0, 0, 1, 2]


def test_caches_may_differ_in_heads_length_and_size(backend_once):
    first, parent, start, stop = example_inputs(6, layers=1, heads=1, length=4, size=3)
    second, *_ = example_inputs(6, layers=1, heads=5, length=9, size=2, dtype=torch.bfloat16)
    start, stop = start * 2, stop * 2  # beyond the shorter one: clipped there
    caches = [*first, *second]
    expected = [slow(c, parent, *(i.clamp(max=c.shape[2]) for i in (start, stop))) for c in caches]
    gather_beams_(caches, parent, start, stop)
    assert all(map(torch.equal, caches, expected))


def test_a_parent_that_is_no_row_leaves_its_row_alone(backend_once):
    cache = torch.arange(3.0).reshape(3, 1, 1, 1)
    zero, one = torch.zeros(3).long(), torch.ones(3).long()
    gather_beams_([cache], torch.tensor([-1, 3, 0]), zero, one)
    assert cache.flatten().tolist() == [0, 1, 0]


def test_an_empty_or_reversed_range_moves_nothing(backend_once):
    caches, parent, start, stop = example_inputs(5)
    before = [cache.clone() for cache in caches]
    gather_beams_(caches, parent, stop, start)
    assert all(map(torch.equal, caches, before))


def test_nothing_to_gather_is_fine(backend_once):
    none = torch.empty(0, dtype=torch.long)
    gather_beams_([], none, none, none)
    assert gather_beams([], torch.zeros(2).long(), *torch.zeros(2, 2).long()) == []
    for shape in [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)]:
        indices = torch.zeros(3, shape[0], dtype=torch.long)
        assert gather_beams([torch.empty(shape)], *indices)[0].shape == shape


def test_int32_indices_give_the_same(backend_once):
    caches, *indices = example_inputs(7)
    expected = gather_beams(caches, *indices)
    found = gather_beams(caches, *(index.int() for index in indices))
    assert all(map(torch.equal, found, expected))


def test_the_functional_twin_leaves_its_caches_alone(backend_once):
    caches, *indices = example_inputs(7)
    before = [cache.clone() for cache in caches]
    found = gather_beams(caches, *indices)
    assert all(map(torch.equal, caches, before))
    gather_beams_(caches, *indices)
    assert all(map(torch.equal, found, caches))


@pytest.mark.parametrize("size", [33, 64])
def test_a_move_larger_than_the_processors_caches(backend_once, size):
    caches, _, start, _ = example_inputs(
        8, layers=2, heads=2, length=4096, size=size, dtype=torch.float16
    )
    start = start % 64  # odd rows of fp16: no line of the target is aligned with its source
    stop, parent = torch.full((8,), 4095), torch.tensor([1, 2, 0, 3, 3, 4, 7, 6])
    position = torch.arange(4096)
    takes = (position >= start[:, None]) & (position < stop[:, None])
    expected = [torch.where(takes[:, None, :, None], cache[parent], cache) for cache in caches]
    gather_beams_(caches, parent, start, stop)
    assert all(map(torch.equal, caches, expected))


def test_thread_counts_change_nothing(backend_once):
    caches, *indices = example_inputs(16, layers=4, heads=4, length=64, size=64)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(gather_beams(caches, *indices))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_opcheck(backend_once):
    caches, *indices = example_inputs(5)
    torch.library.opcheck(backend_once.namespace.gather_beams_.default, (caches, *indices))
    torch.library.opcheck(backend_once.namespace.gather_beams.default, (caches, *indices))


def test_it_compiles_without_a_graph_break(backend_once):
    caches, *indices = example_inputs(5)

    def twice(caches: list[Tensor], *indices: Tensor) -> list[Tensor]:
        gather_beams_(caches, *indices)
        return gather_beams(caches, *indices)

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    copies = [cache.clone() for cache in caches]
    assert all(map(torch.equal, compiled(copies, *indices), twice(caches, *indices)))
    assert all(map(torch.equal, copies, caches))


_CACHE = torch.zeros(2, 1, 3, 4)
_ROWS = torch.zeros(2).long()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"caches": _CACHE}, DtypeError, "caches must be a list of tensors"),
        ({"caches": [_CACHE, 3]}, DtypeError, r"caches\[1\] must be a torch\.Tensor, got int"),
        ({"caches": [_CACHE[0]]}, ShapeError, r"caches\[0\] must be \[R, heads, T, D\]"),
        ({"caches": [_CACHE[:1]]}, ShapeError, r"caches\[0\] .* with R = 2 \(from parent\)"),
        ({"caches": [_CACHE.mT]}, LayoutError, r"caches\[0\] must be contiguous"),
        ({"caches": [_CACHE[:1].expand(2, 1, 3, 4)]}, LayoutError, r"caches\[0\] is an expanded"),
        (
            {"caches": [_CACHE.to("meta")]},
            DeviceError,
            r"caches\[0\] is on meta but parent is on cpu",
        ),
        ({"stop": _ROWS.to("meta")}, DeviceError, "stop is on meta but parent is on cpu"),
        ({"parent": _ROWS.float()}, DtypeError, "parent must have dtype int32, int64"),
        ({"start": _ROWS[:1]}, ShapeError, r"start must have shape \[2\] \(from parent\)"),
        ({"stop": _ROWS[None]}, ShapeError, r"stop must be \[R\], got \[1, 2\]"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    good = {"caches": [_CACHE], "parent": _ROWS, "start": _ROWS, "stop": _ROWS}
    with pytest.raises(error, match=message):
        gather_beams_(**{**good, **arguments})


def test_checks_name_the_bad_row(value_checks):
    with pytest.raises(RangeError, match=r"parent\[1\].* are 2, 0, 0: parent must lie in \[0, 2\)"):
        gather_beams_([_CACHE.clone()], torch.tensor([0, 2]), _ROWS, _ROWS)
