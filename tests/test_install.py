"""What an installation promises: cheap imports, no compiler needed, every name and room there."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import w2s_kernels

ROOT = Path(__file__).parent.parent
PACKAGE = Path(w2s_kernels.__file__).parent
OPS = sorted(p.stem for p in (PACKAGE / "ops").glob("*.py") if not p.stem.startswith("_"))


def run_python(program: str, folder: Path = PACKAGE.parent) -> str:
    """Runs a program that finds the package in `folder`; what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("W2S_")}
    environment["PYTHONPATH"] = str(folder)
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_the_package_imports_neither_torch_nor_transformers_nor_triton():
    program = (
        "import sys, json, w2s_kernels\n"
        "heavy = ('torch', 'transformers', 'triton', 'numpy')\n"
        "first = [m for m in heavy if m in sys.modules]\n"
        "w2s_kernels.logprob, w2s_kernels.gather_beams_\n"
        "print(json.dumps([first, [m for m in heavy[1:3] if m in sys.modules]]))"
    )
    assert json.loads(run_python(program)) == [[], []]


@pytest.mark.parametrize("source", ["w2s_kernels", "python/w2s"])
def test_every_package_of_the_sources_is_installed(source):
    spec = importlib.util.find_spec(Path(source).name)
    found = [
        {init.parent.relative_to(root) for init in root.rglob("__init__.py")}
        for root in (ROOT / source, Path(spec.origin).parent)
    ]
    assert found[0] == found[1]


_WITHOUT_LIBRARY = """
import json, torch, w2s_kernels
from w2s_kernels import dispatch, errors, info
score = w2s_kernels.segment_score(torch.ones(3), torch.tensor([0, 3])).tolist()
with dispatch.use("cpu"):
    try:
        w2s_kernels.logprob(torch.zeros(1, 2), torch.tensor([0]))
        refused = None
    except errors.BackendError as error:
        refused = str(error)
print(json.dumps({"file": w2s_kernels.__file__, "score": score, "refused": refused,
                  "info": info.collect(), "text": info.report()}))
"""


def check_reference_only(folder: Path, reason: str) -> None:
    found = json.loads(run_python(_WITHOUT_LIBRARY, folder))
    assert found["file"].startswith(str(folder))
    assert found["score"] == [3.0]
    assert reason in found["refused"]
    assert found["info"]["library"]["loaded"] is False
    assert reason in found["info"]["library"]["reason"]
    assert {op["backend"]["cpu"] for op in found["info"]["ops"].values()} == {"reference"}
    assert f"note: ops on CPU tensors run on the reference backend: {reason}" in found["text"]


def test_without_the_compiled_library_it_runs_on_the_reference_and_info_says_so(tmp_path):
    ignored = shutil.ignore_patterns("*.so", "_build_error.txt", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "w2s_kernels", ignore=ignored)
    check_reference_only(tmp_path, "the compiled library w2s_kernels/_C.so is not there")


@pytest.mark.slow
def test_it_installs_without_a_compiler_and_keeps_the_reason(tmp_path):
    source, empty = tmp_path / "source", tmp_path / "bin"
    source.mkdir()
    empty.mkdir()
    for name in ("w2s_kernels", "python", "csrc"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--disable-pip-version-check", "--target", str(target), str(source)],
        env={**os.environ, "PATH": str(empty), "W2S_REQUIRE_NATIVE": "0"},
        check=True, capture_output=True,
    )  # fmt: skip
    assert not (target / "w2s_kernels" / "_C.so").exists()
    check_reference_only(target, "the compiled kernels were not built: ")


@pytest.mark.parametrize("name", sorted(set(w2s_kernels.__all__) - {"__version__"}))
def test_every_public_name_resolves_and_is_described(name):
    assert (getattr(w2s_kernels, name).__doc__ or "").strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'log_prob'"):
        w2s_kernels.log_prob  # noqa: B018


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_its_rooms(op):
    assert (ROOT / "tests" / f"test_{op}.py").is_file()
    assert (ROOT / "bench" / f"bench_{op}.py").is_file()


def test_no_file_is_a_stray_op():
    modules = {module for module in w2s_kernels._PUBLIC.values() if module.startswith("ops.")}
    assert {f"ops.{op}" for op in OPS} == modules
