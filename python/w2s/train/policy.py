"""A causal language model as training sees it: token ids in, log-probs of the targets out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from w2s.errors import ModelError
from w2s.models import Model, load
from w2s.train.candidates import Drawn
from w2s.train.loop import require
from w2s.train.rows import IGNORE
from w2s_kernels import Head, linear_logprob
from w2s_kernels.ops._linear_sum import linear_logprob_sum


def load_policy(
    model: str | Path, tokenizer: str | Path | None, device: str, seed: int, candidates: int
) -> Model:
    """The model in float32 and training mode on `device`, with its (or the given) tokenizer.

    Its head is checked against the model's own logits. Sets torch's global seed, which any dropout
    in the model draws from.

    Raises:
        ModelError, VocabularyError, HeadError: model or tokenizer cannot be used, or not together.
        ConfigError: `candidates` for a model that caps its logits.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    try:
        tok = AutoTokenizer.from_pretrained(str(tokenizer or model))
        module = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{model} (tokenizer: {tokenizer or model}) cannot be loaded: {error}"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load((module, tok), device=device)
    require(
        "candidates",
        candidates,
        not candidates or not policy.softcap,
        f"0 for {model}, which caps its logits, and would cap the candidates' correction too",
    )
    policy.module.train()
    return policy


def live_head(policy: Model) -> Head:
    """The output head with its weight and bias as the parameters themselves, not copies."""
    layer = policy.module.get_output_embeddings()
    return Head(
        layer.weight,  # [V, D]
        bias=getattr(layer, "bias", None),
        softcap=policy.softcap,
        logit_scale=policy.logit_scale,
        valid_vocab=policy.head.valid_vocab,
    )


def target_logprob(
    policy: Model, ids: Tensor, target: Tensor, drawn: Drawn | None = None
) -> Tensor:
    """log p(target) at every position: ids [B, T], target [B, T] → float32 [B, T], 0 where ignored.

    Only hidden states of counted positions reach the head, and its logits [N, V] are never stored.
    With `drawn` (made for exactly these targets) the softmax is over its candidates alone.
    Differentiable in every parameter of the model.
    """
    hidden, head, wanted = _counted(policy, ids, target, drawn)
    logprob = linear_logprob(hidden, head, wanted)  # [N]
    return torch.zeros(target.shape, device=ids.device).masked_scatter(target != IGNORE, logprob)


def mean_nll(policy: Model, ids: Tensor, target: Tensor, drawn: Drawn | None = None) -> Tensor:
    """Mean of −log p(target) over the counted positions, in nats; 0 where there are none.

    Arguments as in `target_logprob`. The gradient is made in the forward (see
    `w2s_kernels.ops._linear_sum`), which saves one of four products with the head.
    """
    hidden, head, wanted = _counted(policy, ids, target, drawn)
    weight = hidden.new_full(wanted.shape, -1.0 / max(len(wanted), 1))  # [N]
    return linear_logprob_sum(hidden, head, wanted, weight)


def _counted(
    policy: Model, ids: Tensor, target: Tensor, drawn: Drawn | None
) -> tuple[Tensor, Head, Tensor]:
    """Hidden states [N, D] of the counted positions, the head to use, and its targets [N]."""
    counted = target != IGNORE
    # Rows are padded on the right and attention is causal, so no counted position can see padding
    # and no mask is needed.
    hidden = policy.backbone(input_ids=ids, use_cache=False).last_hidden_state[counted]
    head = live_head(policy)
    if drawn is None:
        return hidden, head, target[counted]
    bias = drawn.bias if head.bias is None else head.bias[drawn.ids] + drawn.bias
    few = Head(head.weight[drawn.ids], bias=bias, logit_scale=head.logit_scale)  # [C, D]
    return hidden, few, drawn.target


def padded(rows: list[list[int]], fill: int) -> Tensor:
    """Rows of different lengths as one int64 tensor [B, T], filled on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
