"""`w2s_kernels.info`: the report as data, as text and as a command."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import w2s_kernels
from w2s_kernels import _library, dispatch, info

PUBLIC_OPS = {"logprob", "logprob_diff", "segment_score_", "select_beams", "gather_beams_"}


@pytest.fixture(autouse=True)
def _free_choice(monkeypatch):
    for name in info.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with dispatch.use(None):
        yield


def test_it_states_versions_hardware_and_the_library():
    found = info.collect()
    assert found["versions"]["w2s_kernels"] == w2s_kernels.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu"]["model"]
    assert found["library"]["loaded"] == _library.load()
    assert found["library"]["threads"] == torch.get_num_threads()
    if found["library"]["loaded"]:
        assert found["library"]["isa"] in found["library"]["isas"]
        assert found["library"]["reason"] is None
    assert bool(found["cuda"]["devices"]) == torch.cuda.is_available()


def test_it_says_which_backend_each_op_takes_and_why_not_the_others():
    ops = info.collect()["ops"]
    assert set(ops) >= PUBLIC_OPS
    assert set(ops) <= set(w2s_kernels.__all__)
    for op in ops.values():
        assert op["backend"]["cpu"] in ("cpu", "reference")
        assert op["backend"]["cpu"] not in op["refused"]
        assert all(reason for reason in op["refused"].values())


def test_the_text_has_all_of_it():
    text = info.report()
    assert text.startswith(f"w2s_kernels {w2s_kernels.__version__} (python ")
    for name in (*PUBLIC_OPS, *info.VARIABLES, info.collect()["cpu"]["model"]):
        assert name in text
    assert max(map(len, text.splitlines())) < 400


def test_the_command_prints_text_or_json(capsys):
    assert info.main([]) == 0
    assert capsys.readouterr().out == info.report() + "\n"
    assert info.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info.collect()


def test_an_instruction_set_that_does_not_run_here_is_noted(monkeypatch):
    if not _library.load():
        pytest.skip(f"no compiled library: {_library.reason()}")
    monkeypatch.setenv("W2S_KERNELS_ISA", "sse9")
    found = info.collect()
    assert found["ops"] == {}
    (note,) = [note for note in found["notes"] if "W2S_KERNELS_ISA=sse9 does not run here" in note]
    assert all(isa in note for isa in found["library"]["isas"])
    assert note in info.report()


def test_a_forced_backend_is_noted(monkeypatch):
    monkeypatch.setenv("W2S_KERNELS_BACKEND", "cuda")
    with dispatch.use("cuda"):
        found = info.collect()
    assert found["ops"]["select_beams"]["backend"]["cpu"] is None
    (note,) = [n for n in found["notes"] if "W2S_KERNELS_BACKEND=cuda" in n]
    assert "select_beams" in note
    monkeypatch.setenv("W2S_KERNELS_BACKEND", "gpu")
    assert any("gpu is unknown" in note for note in info.collect()["notes"])


def test_a_gpu_without_our_kernels_is_said_to_run_the_reference(monkeypatch):
    device = SimpleNamespace(name="A GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(
        dispatch, "_table", {name: {"reference": op["reference"]} for name, op in _table().items()}
    )
    text = info.report()
    assert "CUDA 0   A GPU, sm 9.0, 80.0 GiB" in text
    assert "note: on CUDA tensors these run on the reference backend: " in text


def _table():
    info.collect()  # defines every op
    return dispatch._table


def test_without_torch_it_says_so_and_what_to_do():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from w2s_kernels import info\n"
        "print(info.collect()['versions']['torch']); print(info.report())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert found.startswith("None\n")
    assert "torch not installed" in found
    assert "note: no op runs here: torch does not import" in found
    assert "pip install torch" in found
