"""select_beams against a slow re-implementation in Python, on every backend."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2s_kernels
from w2s_kernels import select_beams
from w2s_kernels.errors import DeviceError, DtypeError, LayoutError, RangeError, ShapeError
from w2s_kernels.ops.select_beams import example_inputs

NAN, INF = float("nan"), float("inf")


def slow_pool(
    score: list[float], clone_of: list[int], width: int, repeat: int
) -> list[tuple[int, bool]]:
    """(row, valid) of one pool's places, by the rule as the docstring states it."""
    nans = [row for row in range(len(score)) if math.isnan(score[row])]
    rest = [row for row in range(len(score)) if not math.isnan(score[row])]
    valid, losers, seen = [], [], set()
    for row in sorted(rest, key=lambda row: (-score[row], row)):
        if clone_of[row] >= 0 and clone_of[row] in seen:
            losers.append(row)
            continue
        seen.add(clone_of[row])
        valid.append(row)
    places = [(row, True) for row in valid] + [(row, False) for row in losers + nans]
    return [place for place in places[:width] for _ in range(repeat)]


def assert_equals_slow(score: Tensor, clone_of: Tensor | None, width: int, repeat: int) -> None:
    parent, value, valid = select_beams(score, width, repeat=repeat, clone_of=clone_of)
    groups = clone_of if clone_of is not None else torch.full(score.shape, -1)
    expected = [
        slow_pool(s, c, width, repeat) for s, c in zip(score.tolist(), groups.tolist(), strict=True)
    ]
    assert parent.tolist() == [[row for row, _ in pool] for pool in expected]
    assert valid.tolist() == [[flag for _, flag in pool] for pool in expected]
    chosen = score.gather(1, parent)
    assert value.dtype == score.dtype
    assert torch.equal(value.nan_to_num(nan=7e77), chosen.nan_to_num(nan=7e77))


@pytest.mark.parametrize("rows", [1, 2, 16, 63, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_follows_the_rule(backend_once, rows, dtype):
    score, clone_of = example_inputs(3, rows, dtype=dtype, seed=rows)
    for width in sorted({1, max(1, rows // 4), rows}):
        assert_equals_slow(score, clone_of, width, 1)
        assert_equals_slow(score, clone_of.int(), width, 3)
        assert_equals_slow(score, None, width, 2)


_SCORES = st.sampled_from([NAN, -INF, INF, -1.5, -0.0, 0.0, 2.0, 2.0, 1e300])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_backends_follow_the_rule_on_ties_nan_and_clones(data):
    rows = data.draw(st.integers(1, 12))
    width, repeat = data.draw(st.integers(1, rows)), data.draw(st.integers(1, 3))
    score = data.draw(st.lists(_SCORES, min_size=rows, max_size=rows))
    clones = data.draw(st.lists(st.integers(-3, 3), min_size=rows, max_size=rows))
    for backend, refused in w2s_kernels.dispatch.available()["select_beams"].items():
        if refused is None:
            with w2s_kernels.dispatch.use(backend):
                assert_equals_slow(
                    torch.tensor([score], dtype=torch.float64),
                    torch.tensor([clones]),
                    width,
                    repeat,
                )


def test_equal_scores_go_to_the_lower_row(backend_once):
    parent, _, _ = select_beams(torch.tensor([[1.0, 2.0, 2.0, 0.0, -0.0]]), 5)
    assert parent.tolist() == [[1, 2, 0, 3, 4]]


def test_nan_is_invalid_and_behind_minus_infinity(backend_once):
    parent, score, valid = select_beams(torch.tensor([[NAN, -INF, NAN, INF]]), 4)
    assert parent.tolist() == [[3, 1, 0, 2]]
    assert valid.tolist() == [[True, True, False, False]]
    assert score.isnan().tolist() == [[False, False, True, True]]


def test_clones_hold_one_place(backend_once):
    score = torch.tensor([[5.0, 5.0, 4.0, 5.0, 1.0]])
    clone_of = torch.tensor([[7, 7, -1, 7, -1]])
    parent, _, valid = select_beams(score, 3, clone_of=clone_of)
    assert parent.tolist() == [[0, 2, 4]]
    assert valid.all()


def test_losers_fill_places_only_when_too_few_valid_rows_remain(backend_once):
    score = torch.tensor([[5.0, 5.0, 4.0, NAN]])
    clone_of = torch.tensor([[7, 7, -1, -1]])
    parent, kept, valid = select_beams(score, 4, clone_of=clone_of)
    assert parent.tolist() == [[0, 2, 1, 3]]
    assert valid.tolist() == [[True, True, False, False]]
    assert kept[0, 2] == 5.0  # a filler keeps its score


def test_a_nan_clone_does_not_take_its_groups_place(backend_once):
    parent, _, valid = select_beams(
        torch.tensor([[NAN, 1.0, 2.0]]), 2, clone_of=torch.tensor([[0, 0, -1]])
    )
    assert parent.tolist() == [[2, 1]]
    assert valid.all()


def test_each_kept_row_is_listed_repeat_times_in_a_row(backend_once):
    parent, score, valid = select_beams(torch.tensor([[1.0, 3.0, 2.0]]), 2, repeat=3)
    assert parent.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert score.tolist() == [[3.0, 3.0, 3.0, 2.0, 2.0, 2.0]]
    assert valid.shape == (1, 6)


def test_a_prompts_selection_does_not_depend_on_the_batch(backend_once):
    score, clone_of = example_inputs(8, 16)
    together = select_beams(score, 4, repeat=4, clone_of=clone_of)
    for p in range(8):
        alone = select_beams(score[p : p + 1], 4, repeat=4, clone_of=clone_of[p : p + 1])
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one[0].nan_to_num(), all_[p].nan_to_num())


def test_rows_may_have_a_stride(backend_once):
    wide, clones = example_inputs(6, 20)
    strided = select_beams(wide[::2, 3:12], 4, clone_of=clones[::2, 3:12])
    packed = select_beams(wide[::2, 3:12].contiguous(), 4, clone_of=clones[::2, 3:12].contiguous())
    assert torch.equal(strided[0], packed[0])


def test_no_prompts_give_no_rows(backend_once):
    parent, score, valid = select_beams(torch.empty(0, 4), 2, repeat=2)
    assert parent.shape == score.shape == valid.shape == (0, 4)
    assert (parent.dtype, valid.dtype) == (torch.int64, torch.bool)


def test_opcheck(backend_once):
    score, clone_of = example_inputs(3, 8)
    score = score.nan_to_num()  # opcheck compares with ==
    op = backend_once.namespace.select_beams.default
    torch.library.opcheck(op, (score, clone_of, 2, 2))
    torch.library.opcheck(op, (score.float(), None, 8, 1))


def test_it_compiles_without_a_graph_break(backend_once):
    score, clone_of = example_inputs(3, 8)

    def select(score: Tensor, clone_of: Tensor) -> Tensor:
        parent, _, valid = select_beams(score, 2, repeat=4, clone_of=clone_of)
        return parent + valid

    compiled = torch.compile(select, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(score, clone_of), select(score, clone_of))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"score": [[1.0]]}, DtypeError, r"score must be a torch\.Tensor, got list"),
        ({"score": torch.zeros(2, 4).half()}, DtypeError, "score must have dtype float32, float64"),
        ({"score": torch.zeros(4)}, ShapeError, r"score must be \[P, C\], got \[4\]"),
        ({"score": torch.zeros(4, 2).t()}, LayoutError, "score must be contiguous"),
        ({"width": 0}, RangeError, r"width must lie in \[1, 4\].*got 0"),
        ({"width": 5}, RangeError, r"width must lie in \[1, 4\].*got 5"),
        ({"repeat": 0}, RangeError, "repeat must be >= 1, got 0"),
        ({"clone_of": torch.zeros(2, 4)}, DtypeError, "clone_of must have dtype int32, int64"),
        ({"clone_of": torch.zeros(2, 4).long().to("meta")}, DeviceError, "clone_of is on meta"),
        ({"clone_of": torch.zeros(2, 3).long()}, ShapeError, r"clone_of must have shape \[2, 4\]"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        select_beams(**{"score": torch.zeros(2, 4), "width": 2, **arguments})
