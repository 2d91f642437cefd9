"""The README says of every GPU kernel where it has run, and says no more than the figures do."""

from pathlib import Path

import pytest
from gpu_suite import hardware

from support.gpu_figures import figures

README = Path(__file__).parents[1] / "README.md"

pytestmark = pytest.mark.skipif(
    not hardware.kernels(), reason="no Triton here, so its kernels cannot be listed"
)


def test_the_readmes_table_is_that_of_the_kernels_and_the_stored_figures():
    text = README.read_text(encoding="utf-8")
    assert hardware.with_table(text, hardware.table(hardware.stored())) == text, (
        "the table is stale; write it again: PYTHONPATH=.:python:bench python -m "
        "gpu_suite.hardware README.md"
    )


def test_every_kernel_is_listed_once():
    lines = hardware.table([]).splitlines()[3:-1]
    assert len(lines) == len(set(lines)) == len(hardware.kernels())
    assert all(line.endswith(f"| {hardware.NOT_RUN} |") for line in lines)


def test_a_kernel_is_measured_where_its_own_figures_are_and_right():
    data = figures()
    assert hardware.measured("logprob_diff", "triton", [data]) == []  # only "ours" was measured
    rows = data["parts"]["logits"]["entries"][1]["rows"]
    rows.append({**rows[0], "provider": "triton"})
    assert hardware.measured("logprob_diff", "triton", [data]) == ["Made-up GPU, 2000-01-01"]
    rows[-1]["right"] = False
    assert hardware.measured("logprob_diff", "triton", [data]) == []
    assert hardware.measured("logprob", "triton", [data]) == []


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="hardware"):
        hardware.with_table("no table here", "table")
