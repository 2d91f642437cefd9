"""linear_logprob on the interpreter (`tests/test_linear_logprob.py`), path by path."""

import pytest
import torch
from test_linear_logprob import (  # noqa: F401
    KINDS,
    assert_right,
    test_a_bias_of_minus_infinity_masks_its_column,
    test_a_shared_offset_costs_no_digits,
    test_compiled_without_a_graph_break_forward_and_backward,
    test_empty_inputs_give_empty_results,
    test_entropy_matches_float64,
    test_fake_tensors_have_the_shapes_of_real_ones,
    test_hidden_and_weight_may_differ_in_dtype,
    test_ignored_is_zero_and_invalid_is_nan,
    test_ignored_rows_change_no_other_row,
    test_leading_dimensions_and_strided_rows_are_taken,
    test_padding_columns_are_not_read,
    test_targets_of_a_row_share_one_product,
    test_temperature_may_be_a_tensor_and_a_bad_entry_is_its_rows_own,
    test_the_op_passes_opcheck,
    test_values_match_float64_for_every_vocabulary,
)

from support import float64, linear
from w2s_kernels import linear_logprob
from w2s_kernels.ops.linear_logprob import tolerance
from w2s_kernels.triton_kernels import linear_plan
from w2s_kernels.triton_kernels.linear_settings import use_path

PATHS = ("tile", "chunked", "fused")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_match_float64_for_every_head_on_every_path(backend, kind, path):
    head = linear.head(4200, 40, kind)
    hidden, target = linear.inputs(5, head, targets=2)
    with use_path(path):
        value, entropy = linear_logprob(hidden, head, target, temperature=0.7, entropy=True)
    expected = linear.logprob(hidden, head, target, temperature=0.7)
    allowed = tolerance(expected, hidden, head, temperature=0.7)
    assert float64.within(value, expected, allowed)
    expected = linear.entropy(hidden, head, temperature=0.7)
    assert float64.within(entropy, expected, tolerance(expected, hidden, head, temperature=0.7))


@pytest.mark.parametrize("width", [64, 576, 896, 2048, 4096, 77, 1])
def test_values_match_float64_for_every_width(backend, width):
    for kind in ("fp32", "bf16"):
        head = linear.head(300, width, kind)
        hidden, target = linear.inputs(33, head)
        assert_right(hidden[:3], head, target[:3])
        assert_right(hidden[:3], head, target[:3], invariant=True)
        with use_path("chunked"):
            assert_right(hidden, head, target)


@pytest.mark.parametrize("path", PATHS)
def test_rows_in_groups_and_columns_in_pieces_keep_their_values(backend, monkeypatch, path):
    head = linear.head(9000, 72, "bf16+bias")
    hidden, target = linear.inputs(12, head, targets=3)
    monkeypatch.setattr(linear_plan, "_ROWS", 5)
    monkeypatch.setattr(linear_plan, "_WIDE", 72 * 4 * 1000)
    monkeypatch.setattr(linear_plan, "_BUFFER", 4 * 5 * 4096)  # a chunk is one leaf
    monkeypatch.setattr(linear_plan, "_PARTS", 12 * 16 * 20)
    with use_path(path):
        assert_right(hidden, head, target)


@pytest.mark.parametrize("path", PATHS)
def test_bad_rows_stay_their_own_on_every_path(backend, path):
    head = linear.head(5000, 16, "fp32+bias")
    hidden, target = linear.inputs(6, head)
    hidden[0], hidden[1, 2], hidden[4] = float("nan"), float("inf"), float("nan")
    head.bias[4096:] = float("-inf")  # a masked leaf
    target[4], target[5] = -100, 4999
    with use_path(path):
        value = linear_logprob(hidden, head, target % 4096)
        ignored = linear_logprob(hidden, head, target)
    assert value[:2].isnan().all()
    assert value[2:4].isfinite().all()
    assert ignored[4] == 0
    assert ignored[5] == float("-inf")


def test_a_far_row_is_addressed_in_64_bits(backend):
    # Rows 2³¹ elements apart, of which two are touched: memory that is never written costs nothing.
    head = linear.head(200, 16)
    hidden, target = linear.inputs(2, head)
    stride = (1 << 31) + 16
    far = torch.empty_strided((2, 16), (stride, 1))
    far.copy_(hidden)
    for path in ("tile", "chunked"):
        with use_path(path):
            assert_right(far, head, target)
