"""Head: each bad field is refused by name, with what to do."""

import pytest
import torch

from w2s_kernels import Head
from w2s_kernels.errors import DeviceError, DtypeError, LayoutError, RangeError, ShapeError

WEIGHT = torch.randn(6, 4)

BAD = [
    (DtypeError, "weight", {"weight": WEIGHT.double()}),
    (ShapeError, "weight", {"weight": WEIGHT[0]}),
    (ShapeError, "weight", {"weight": WEIGHT[:0]}),
    (LayoutError, "transpose", {"weight": torch.randn(4, 6).T}),
    (DtypeError, "weight_scale", {"weight": WEIGHT.to(torch.int8)}),
    (DtypeError, "weight_scale", {"weight": WEIGHT.to(torch.float8_e4m3fn)}),
    (ShapeError, "bias", {"bias": torch.zeros(4)}),
    (DtypeError, "bias", {"bias": torch.zeros(6, dtype=torch.int32)}),
    (DeviceError, "bias", {"bias": torch.zeros(6, device="meta")}),
    (ShapeError, "weight_scale", {"weight_scale": torch.ones(6, 1)}),
    (RangeError, "softcap", {"softcap": -1.0}),
    (RangeError, "valid_vocab", {"valid_vocab": 0}),
    (RangeError, "valid_vocab", {"valid_vocab": 7}),
]


@pytest.mark.parametrize(("error", "name", "fields"), BAD)
def test_a_bad_field_is_named(error, name, fields):
    with pytest.raises(error, match=name):
        Head(**{"weight": WEIGHT, **fields})


def test_vocab_is_the_number_of_valid_columns():
    assert Head(WEIGHT).vocab == 6
    assert Head(WEIGHT, valid_vocab=5).vocab == 5
    assert Head(WEIGHT[:, :3]).vocab == 6  # rows may be strided
