"""`GuidedProposer`: emulated fine-tuning, the pair's difference added to every token's logits."""

import math
from collections.abc import Sequence
from typing import Any

from w2s.adapters import require_two
from w2s.errors import ModelError, SearchError
from w2s.models import as_model
from w2s.plan import SearchPlan
from w2s.proposers.local import LocalProposer
from w2s.vocabulary import require_same_tokens


class GuidedProposer(LocalProposer):
    """Writes from softmax((z_large + β(z_tuned − z_untuned))/T): EFT (Mitchell et al. 2023, arXiv
    2310.12962), also known as proxy tuning; the baseline of arXiv 2405.19262, section 5.

    large, tuned, untuned: `Model`s (or whatever `load` takes) of one vocabulary on one device. All
    three keep a KV cache and read every token; each sees the prompt its own way. β = 0 is the large
    model alone, token for token (its pair then only costs time). Composes with every plan: the
    chunks of a search may be drawn from the guided law.

    Raises `VocabularyError` when the three differ, `ModelError` when they are on several devices,
    `SearchError` for a β that is not finite.
    """

    def __init__(
        self, large: Any, tuned: Any, untuned: Any, plan: SearchPlan, beta: float = 1.0
    ) -> None:
        if not isinstance(beta, int | float) or not math.isfinite(beta):
            raise SearchError(f"beta must be a finite number, got {beta!r}")
        models = [as_model(model) for model in (large, tuned, untuned)]
        for model in models[1:]:
            require_same_tokens(models[0], model)
            if model.device != models[0].device:
                raise ModelError(
                    f"the large model is on {models[0].device}, {model.name} on {model.device}; "
                    "load all three on one device"
                )
        require_two(models[1], models[2])
        self.beta = float(beta)
        self._set_up(models, plan)

    @property
    def models(self) -> Sequence[Any]:
        """large, tuned, untuned."""
        return [reader.model for reader in self._readers]
