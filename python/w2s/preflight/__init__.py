"""`check`: do these models fit together? Asked of configs, tokenizers and file headers only.

`examine` collects the findings, `check` returns them, `require_fit` raises the first error and is
what a search calls before any weight is loaded. They bring transformers and most of `w2s` with
them, so they are resolved when first used: `Finding`, which other checks have too, costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from w2s.preflight.finding import Finding, Level

if TYPE_CHECKING:
    from w2s.preflight.examination import Report, check, examine, fit_before_loading, require_fit

__all__ = ["Finding", "Level", "Report", "check", "examine", "fit_before_loading", "require_fit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'w2s.preflight' has no attribute {name!r}")
    value = getattr(import_module("w2s.preflight.examination"), name)
    globals()[name] = value
    return value
