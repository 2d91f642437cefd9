"""Kernels for steering a large language model with small ones. Needs torch, nothing else.

Names resolve at first use, so `import w2s_kernels` is cheap and needs no compiled library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Head": "head",
    "checks": "dispatch",
    "explain": "dispatch",
    "logprob": "ops.logprob",
    "logprob_stats": "ops.logprob_stats",
    "merge_stats": "ops.logprob_stats",
    "finish_stats": "ops.logprob_stats",
    "logprob_diff": "ops.logprob_diff",
    "linear_logprob": "ops.linear_logprob",
    "linear_logprob_diff": "ops.linear_logprob_diff",
    "segment_score": "ops.segment_score",
    "segment_score_": "ops.segment_score",
    "guided_logits": "ops.guided_logits",
    "guided_sample": "ops.guided_sample",
    "guided_topk": "ops.guided_topk",
    "select_beams": "ops.select_beams",
    "gather_beams": "ops.gather_beams",
    "gather_beams_": "ops.gather_beams",
    "extrapolate": "ops.extrapolate",
    "extrapolate_": "ops.extrapolate",
    "key_of": "ops.extrapolate",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from .dispatch import checks as checks
    from .dispatch import explain as explain
    from .head import Head as Head
    from .ops.extrapolate import extrapolate as extrapolate
    from .ops.extrapolate import extrapolate_ as extrapolate_
    from .ops.extrapolate import key_of as key_of
    from .ops.gather_beams import gather_beams as gather_beams
    from .ops.gather_beams import gather_beams_ as gather_beams_
    from .ops.guided_logits import guided_logits as guided_logits
    from .ops.guided_sample import guided_sample as guided_sample
    from .ops.guided_topk import guided_topk as guided_topk
    from .ops.linear_logprob import linear_logprob as linear_logprob
    from .ops.linear_logprob_diff import linear_logprob_diff as linear_logprob_diff
    from .ops.logprob import logprob as logprob
    from .ops.logprob_diff import logprob_diff as logprob_diff
    from .ops.logprob_stats import finish_stats as finish_stats
    from .ops.logprob_stats import logprob_stats as logprob_stats
    from .ops.logprob_stats import merge_stats as merge_stats
    from .ops.segment_score import segment_score as segment_score
    from .ops.segment_score import segment_score_ as segment_score_
    from .ops.select_beams import select_beams as select_beams


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'w2s_kernels' has no attribute {name!r}")
    if _PUBLIC[name].startswith("ops."):
        # The first op defines them all: torch.compile, which may be what asks, takes the table of
        # ops as it finds it and sees none that is defined while it traces.
        for module in dict.fromkeys(_PUBLIC.values()):
            import_module(f".{module}", __name__)
    value = getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value
