"""Machine code of the linear kernels, where the general promises do not say what they are for."""

import pytest

from w2s_kernels.aot.cases import AotCase
from w2s_kernels.aot.compiling import MachineCode, compile_case
from w2s_kernels.triton_kernels import INTERPRETED, linear_chunk, linear_fused, linear_tile

pytestmark = pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 compiles nothing")
LATER = [pytest.param(arch, marks=pytest.mark.slow) for arch in (80, 100)]


def code_of(entry, arch: int) -> MachineCode:
    return compile_case(AotCase("linear", *entry), arch).code


@pytest.mark.parametrize("arch", [90, *LATER])
def test_heads_of_8_bits_are_multiplied_on_tensor_cores_without_a_spill(arch):
    for entry in linear_tile.quantized_cases(arch):
        compiled = compile_case(AotCase("linear", *entry), arch)
        assert compiled.code.tensor
        assert compiled.code.spills == 0
        assert compiled.wide_share(8) > 0.9  # weights come 8 or 16 bytes at a time, scales less


@pytest.mark.parametrize("arch", [90, LATER[1]])
def test_the_fused_kernel_gets_its_operands_in_bulk_and_spills_nothing(arch):
    (entry,) = linear_fused.descriptor_cases()
    code = code_of(entry, arch)
    assert code.bulk > 0
    assert code.tensor
    assert code.spills == 0


@pytest.mark.parametrize("arch", [90, *LATER])
def test_chunks_are_read_16_bytes_at_a_time(arch):
    for entry in linear_chunk.aot_cases()[:2]:
        assert code_of(entry, arch).loads[16] == 4  # a thread's share of the tile, all of it
