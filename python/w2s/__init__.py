"""`w2s`: steer a large language model with a small tuned / untuned pair (arXiv 2405.19262).

The public names are resolved when they are first used, so `import w2s` costs nothing. The package
needs transformers, which the extra `[decode]` brings.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("transformers") is None:
    raise ImportError(
        'w2s needs transformers, which is not installed: run `pip install "w2s-kernels[decode]"`. '
        "(The kernels alone, `import w2s_kernels`, work without it.)"
    )

if TYPE_CHECKING:
    from w2s.errors import (
        ExpoError,
        HeadError,
        ModelError,
        PlanError,
        PromptError,
        SearchError,
        VocabularyError,
        W2SError,
    )
    from w2s.loop import guide, search
    from w2s.models import Model, load
    from w2s.plan import SearchPlan
    from w2s.preflight import Finding, check
    from w2s.proposers import Chunk, Proposer
    from w2s.proposers.guided import GuidedProposer
    from w2s.proposers.local import LocalProposer
    from w2s.proposers.replay import ReplayProposer
    from w2s.results import Candidate, ChunkTrace, SearchResult
    from w2s.scorers import Scorer
    from w2s.scorers.ensemble import EnsembleScorer
    from w2s.scorers.pair import PairScorer
    from w2s.scorers.text_bridge import TextBridgeScorer
    from w2s.scoring import ResponseScore, score

_HOME = {
    "ExpoError": "errors",
    "HeadError": "errors",
    "ModelError": "errors",
    "PlanError": "errors",
    "PromptError": "errors",
    "SearchError": "errors",
    "VocabularyError": "errors",
    "W2SError": "errors",
    "guide": "loop",
    "search": "loop",
    "Model": "models",
    "load": "models",
    "SearchPlan": "plan",
    "Finding": "preflight",
    "check": "preflight",
    "Chunk": "proposers",
    "Proposer": "proposers",
    "GuidedProposer": "proposers.guided",
    "LocalProposer": "proposers.local",
    "ReplayProposer": "proposers.replay",
    "Candidate": "results",
    "ChunkTrace": "results",
    "SearchResult": "results",
    "ResponseScore": "scoring",
    "score": "scoring",
    "Scorer": "scorers",
    "EnsembleScorer": "scorers.ensemble",
    "PairScorer": "scorers.pair",
    "TextBridgeScorer": "scorers.text_bridge",
}

__all__ = [
    "Candidate",
    "Chunk",
    "ChunkTrace",
    "EnsembleScorer",
    "ExpoError",
    "Finding",
    "GuidedProposer",
    "HeadError",
    "LocalProposer",
    "Model",
    "ModelError",
    "PairScorer",
    "PlanError",
    "PromptError",
    "Proposer",
    "ReplayProposer",
    "ResponseScore",
    "Scorer",
    "SearchError",
    "SearchPlan",
    "SearchResult",
    "TextBridgeScorer",
    "VocabularyError",
    "W2SError",
    "check",
    "guide",
    "load",
    "score",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'w2s' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"w2s.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
