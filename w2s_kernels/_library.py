"""Finds and loads the compiled library, once; says why when there is none."""

import os
from pathlib import Path

import torch

from .errors import BackendError

_FOLDER = Path(__file__).parent
_reason: str | None = None
_loaded = False


def load() -> bool:
    """Loads `_C.so` if it is there. True when its kernels are registered with torch."""
    global _loaded, _reason
    if _loaded or _reason is not None:
        return _loaded
    library, build_error = _FOLDER / "_C.so", _FOLDER / "_build_error.txt"
    if not library.is_file():
        _reason = (
            build_error.read_text().strip()
            if build_error.is_file()
            else "the compiled library w2s_kernels/_C.so is not there (built without a compiler?)"
        )
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        _reason = f"{library.name} does not load with torch {torch.__version__}: {error}"
        return False
    _loaded = True
    return True


def reason() -> str | None:
    """Why there is no compiled library; None when it is loaded."""
    load()
    return _reason


def refused_isa() -> str | None:
    """Why W2S_KERNELS_ISA cannot be followed; None when it can, or is not set."""
    wanted = os.environ.get("W2S_KERNELS_ISA")
    if not wanted or not load():
        return None
    isas = torch.ops.w2s_library.isas().split()
    if wanted in isas:
        return None
    return f"W2S_KERNELS_ISA={wanted} does not run here; unset it or choose {' or '.join(isas)}"


def require_isa() -> None:
    """Raises BackendError where W2S_KERNELS_ISA names an instruction set that is not here."""
    why = refused_isa()
    if why is not None:
        raise BackendError(why)


def has_kernel(namespace: str, name: str, key: str) -> bool:
    """Whether an op of that namespace has a kernel under a torch dispatch key ("CPU", "CUDA")."""
    qualified = f"{namespace}::{name}"
    # The question by key raises for a name that no library has registered.
    if not torch._C._dispatch_has_kernel(qualified):
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key))
