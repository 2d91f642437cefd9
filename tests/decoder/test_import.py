"""What importing the decoder needs and costs."""

import subprocess
import sys

import pytest

import w2s


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_without_transformers_names_the_extra():
    found = _python(
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'transformers' else real(name, *a)\n"
        "import w2s"
    )
    assert found.returncode == 1
    assert 'pip install "w2s-kernels[decode]"' in found.stderr.splitlines()[-1]


def test_import_loads_neither_torch_nor_transformers():
    found = _python(
        "import sys, w2s; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert found.returncode == 0, found.stderr


def test_every_public_name_resolves():
    for name in w2s.__all__:
        assert getattr(w2s, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = w2s.serch
