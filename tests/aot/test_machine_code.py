"""The checks themselves, on small kernels that keep or break each promise."""

import dataclasses
import functools
import json

import pytest

from support import aot_kernels
from w2s_kernels.aot.cases import ARCHES, AotCase
from w2s_kernels.aot.compiling import Compiled, Dot, compile_case
from w2s_kernels.aot.machine_code import MachineCode, from_dict, parse
from w2s_kernels.aot.page import page, table
from w2s_kernels.aot.promises import as_ceilings, broken, over, read_ceilings
from w2s_kernels.aot.traffic import Traffic

pytestmark = pytest.mark.skipif(
    not hasattr(aot_kernels.row_sums, "cache_key"), reason="TRITON_INTERPRET=1 compiles nothing"
)
CASES = {entry[0]: AotCase("stand_in", *entry) for entry in aot_kernels.aot_cases()}


@functools.cache
def compiled(name: str, arch: int = 90) -> Compiled:
    return compile_case(CASES[name], arch)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_row_reader_is_seen_to_load_16_bytes_a_thread(arch):
    code = compiled("right", arch).code
    assert set(code.loads) == {16}
    assert code.spills == 0
    assert 16 < code.registers < 255
    assert broken(compiled("right", arch)) == []


@pytest.mark.parametrize(("arch", "opcode"), [(80, "HMMA."), (90, "HGMMA."), (100, "UTCHMMA")])
def test_a_16_bit_product_is_seen_on_each_generation_s_tensor_cores(arch, opcode):
    found = compiled("right product", arch)
    assert all(name.startswith(opcode) for name in found.code.tensor)
    assert found.code.tensor
    assert found.dots == (Dot("bf16", "bf16", "ieee"),)
    assert broken(found) == []


def test_loads_of_2_bytes_are_refused_unless_the_kernel_reads_only_a_few_numbers():
    (sentence,) = broken(compiled("narrow loads"))
    assert "only 0% of what it reads is read 16 bytes a thread" in sentence
    assert broken(compiled("narrow loads of a scalar kernel")) == []


def test_spills_are_refused_in_a_forward_alone():
    (sentence,) = broken(compiled("spills"))
    assert "spills; a forward has none" in sentence
    assert compiled("spills in a backward").code.spills > 0
    assert broken(compiled("spills in a backward")) == []


@pytest.mark.parametrize("arch", ARCHES)
def test_tf32_products_are_refused(arch):
    (sentence,) = broken(compiled("tf32", arch))
    assert "tf32 rounds" in sentence


def test_a_16_bit_product_off_the_tensor_cores_is_refused():
    found = compiled("right product")
    (sentence,) = broken(dataclasses.replace(found, code=MachineCode(32, 0, 0, {16: 8})))
    assert "without the tensor cores" in sentence


def test_a_ceiling_is_kept_by_what_wrote_it_and_broken_by_one_register_more(tmp_path):
    found = compiled("right")
    file = tmp_path / "ceilings.json"
    file.write_text(as_ceilings([found]))
    ceilings = read_ceilings(file)
    assert over(found, ceilings) == []
    kept = ceilings["kernels"]["stand_in: right"]["sm_90"]
    kept["registers"] -= 1
    (sentence,) = over(found, ceilings)
    assert f"registers {found.code.registers} > {kept['registers']}" in sentence
    (sentence,) = over(compiled("right product"), ceilings)
    assert "has no ceiling" in sentence


def test_copies_of_a_pipelined_loop_count_once():
    code = MachineCode(32, 0, 0, loads={8: 5, 16: 1}, copies={16: 6})
    assert code.wide_bytes(threads=128, stages=3) == 128 * 16 * (1 + 2)


def test_figures_survive_json():
    code = compiled("right product").code
    assert from_dict(json.loads(json.dumps(code.as_dict()))) == code


def test_opcodes_are_counted_by_what_they_do():
    code = parse(
        "\n".join(
            f"        /*{n:04x}*/                   {line} ;"
            for n, line in enumerate(
                ["LDG.E.128 R4, [R2.64]", "@!P0 LDG.E.U16 R4, [R2.64]", "@P1 LDG.E R1, [R2]",
                 "LDGSTS.E.BYPASS.128 [R1], [R2.64]", "LDGDEPBAR", "STL [R1], R2",
                 "LDL.64 R2, [R1]", "@!UP0 UTMALDG.2D [UR1], [UR2]",
                 "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24", "FFMA R1, R2, R3, R4"]
            )
        ),
        registers=40, shared=1024, local=8,
    )  # fmt: skip
    assert code.loads == {2: 1, 4: 1, 16: 1}
    assert code.copies == {16: 1}
    assert dataclasses.replace(code, bulk=0).wide_bytes(threads=32, stages=1) == 2 * 16 * 32
    assert code.spills == 8 + 2
    assert code.bulk == 1
    assert code.tensor == {"HGMMA.64x128x16.F32.BF16": 1}
    assert code.instructions == 10


def test_the_page_has_a_line_a_kernel_and_architecture():
    found = [compiled("right", arch) for arch in ARCHES]
    shown = page(found, [Traffic("stand_in", "N=2", 1100, 1000)], "3.9.0")
    assert shown.count("| sm_") == 3
    assert "| stand_in | N=2 | 1100 | 1000 | 1.100 |" in shown
    (line,) = [line for line in table(found) if "sm_90" in line]
    assert "2 of 2 (100%)" in line
