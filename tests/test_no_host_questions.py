"""The search ops ask the device nothing: on the meta device, where a question is an error, all run.

`_reference` is an op's own code; through torch.ops the fake would answer in its place. Tensors on
the meta device take the path of tensors on a GPU: neither lies on the CPU.
"""

import pytest
import torch
from torch import Tensor

from w2s_kernels import (
    dispatch,
    gather_beams,
    gather_beams_,
    segment_score,
    segment_score_,
    select_beams,
)
from w2s_kernels.ops import gather_beams as _gather
from w2s_kernels.ops import segment_score as _segments
from w2s_kernels.ops import select_beams as _select


@pytest.fixture(autouse=True)
def _free_choice():
    with dispatch.use(None):
        yield


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ids(*shape: int) -> Tensor:
    return meta(*shape, dtype=torch.long)


def test_a_question_to_the_meta_device_is_an_error():
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        meta(1).item()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(meta(1).any())


def test_segment_score_asks_nothing():
    assert _segments._reference(meta(20), ids(4), 5).shape == (3,)
    _segments._reference_(meta(3, dtype=torch.float64), meta(20), ids(4), 5)
    _segments._reference_(meta(3, dtype=torch.float64), meta(3, 5), None, 5)
    assert segment_score(meta(20), ids(4)).shape == (3,)
    segment_score_(meta(3, dtype=torch.float64), meta(3, 5))


def test_select_beams_asks_nothing():
    parent, _, _ = _select._reference(meta(2, 8), ids(2, 8), 2, 3)
    assert parent.shape == (2, 6)
    assert select_beams(meta(2, 8), 2, repeat=3, clone_of=ids(2, 8))[0].shape == (2, 6)


def test_gather_beams_asks_nothing():
    caches = [meta(4, 2, 8, 3), meta(4, 1, 5, 2)]
    _gather._reference_(caches, ids(4), ids(4), ids(4))
    _gather._reference(caches, ids(4), ids(4), ids(4))
    gather_beams_(caches, ids(4), ids(4), ids(4))
    assert gather_beams(caches, ids(4), ids(4), ids(4))[1].shape == (4, 1, 5, 2)
