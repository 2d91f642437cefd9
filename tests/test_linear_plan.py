"""The Triton linear ops' buffers: within their limits whatever the shapes, and covering them."""

import json
from pathlib import Path

import pytest

import w2s_kernels
from w2s_kernels.triton_kernels import linear_plan
from w2s_kernels.triton_kernels.linear_plan import BACKWARD_LIMIT, FORWARD_LIMIT, LEAF

WIDTHS = (1, 64, 576, 2048, 4096, 8192, 16384)
SHAPES = [(n, v) for n in (1, 33, 65, 512, 4096, 100_000) for v in (1, 4097, 128256, 262144)]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_forward_of_a_pair_takes_at_most_64_mib(width):
    assert FORWARD_LIMIT == 64 << 20
    for rows, vocab in SHAPES:
        for weight_bytes in (0, 2, 4):
            for hidden_bytes in (0, 4):
                plan = linear_plan.forward_plan(
                    rows, width, vocab, weight_bytes=weight_bytes, hidden_bytes=hidden_bytes,
                    heads=2,
                )  # fmt: skip
                assert plan.bytes <= FORWARD_LIMIT, (rows, vocab, plan)
                assert 1 <= plan.rows <= rows
                assert plan.columns % LEAF == 0
                assert 1 <= plan.piece <= plan.columns
        plan = linear_plan.tile_plan(rows, vocab, 64, heads=2)
        assert plan.bytes <= FORWARD_LIMIT, (rows, vocab, plan)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_backward_takes_at_most_128_mib_beside_its_gradients(width):
    for rows, vocab in SHAPES:
        for split, weight_bytes, hidden_bytes in ((True, 0, 2), (True, 2, 2), (False, 4, 4)):
            plan = linear_plan.backward_plan(
                rows, width, vocab, split=split, weight_bytes=weight_bytes,
                hidden_bytes=hidden_bytes, block_rows=16, block_columns=128,
            )  # fmt: skip
            assert plan.bytes <= BACKWARD_LIMIT, (rows, vocab, plan)
            assert plan.columns % 128 == plan.rows % 16 == 0


def test_slices_cover_and_do_not_overlap():
    found = [i for part in linear_plan.slices(10, 4) for i in range(part.start, part.stop)]
    assert found == list(range(10))


def test_every_committed_tile_is_one_that_a_kernel_can_have():
    folder = Path(w2s_kernels.__file__).parent / "triton_kernels"
    table = json.loads((folder / "linear_settings.json").read_text())
    assert set(table) == {"0", "80", "90", "100"}
    for arch, entry in table.items():
        assert entry["many"] in ("chunked", "fused")
        shapes = [*entry["invariant"].values(), *entry.get("fused", {}).values()]
        for bits, by_rows in entry["tile"].items():
            assert list(map(int, by_rows)) == sorted(shape[1] for shape in by_rows.values())
            assert max(map(int, by_rows)) >= entry["few_rows"][bits], arch
            shapes += by_rows.values()
        for columns, rows, depth, warps, stages in shapes:
            assert LEAF % columns == 0
            assert min(columns, rows, depth) >= 16
            for size in (columns, rows, depth, warps):
                assert size & (size - 1) == 0
            assert 1 <= stages <= 5
