"""The log-prob family in float64, written from the definitions and for nothing but correctness.

Each function takes the same rounded inputs as the op and returns float64. They are differentiable,
so torch's own autograd in float64 gives the gradients the ops are held to.
"""

import torch
from torch import Tensor

IGNORE = -100


def effective(logits: Tensor, softcap: float = 0.0, valid_vocab: int | None = None) -> Tensor:
    """float64 logits of the valid columns as the model means them: capped, −inf kept."""
    z = logits[..., :valid_vocab].double()
    if softcap:
        # A masked column is a constant: the slope of tanh there is 0.
        z = torch.where(z == float("-inf"), z.detach(), softcap * torch.tanh(z / softcap))
    return z


def log_softmax(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
) -> Tensor:
    """log softmax(z/T) `[…, V_valid]`; NaN on rows with a NaN, a +inf or no finite logit."""
    raw = logits[..., :valid_vocab].double()
    z = effective(logits, softcap, valid_vocab)
    t = temperature.double()[..., None] if isinstance(temperature, Tensor) else temperature
    bad = (raw.isnan() | (raw == float("inf"))).any(-1, keepdim=True)
    bad = bad | (raw == float("-inf")).all(-1, keepdim=True)
    if isinstance(t, Tensor):
        bad = bad | ~(t > 0)
        t = torch.where(t > 0, t, torch.ones_like(t))
    q = torch.log_softmax(torch.where(bad, torch.zeros_like(z), z) / t, dim=-1)
    return torch.where(bad, torch.full_like(q, float("nan")), q)


def pick(q: Tensor, target: Tensor, vocab: int | None = None) -> Tensor:
    """Columns of q `[…, V]` at target `[…]` or `[…, K]`; ignored ones 0, invalid ones NaN."""
    vocab = q.shape[-1] if vocab is None else vocab
    ids = target.long() if target.dim() == q.dim() else target.long().unsqueeze(-1)
    got = q.gather(-1, ids.clamp(0, q.shape[-1] - 1))
    got = torch.where((ids >= 0) & (ids < vocab), got, torch.full_like(got, float("nan")))
    return torch.where(ids == IGNORE, torch.zeros_like(got), got).reshape(target.shape)


def logprob(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
) -> Tensor:
    """log softmax(z/T)[target], float64."""
    q = log_softmax(logits, temperature=temperature, softcap=softcap, valid_vocab=valid_vocab)
    return pick(q, target)


def entropy_of(q: Tensor) -> Tensor:
    """−Σ p log p of log-probs q `[…, V]`."""
    return -(q.exp() * torch.where(q == float("-inf"), torch.zeros_like(q), q)).sum(-1)


def entropy(
    logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
) -> Tensor:
    """−Σ p log p of each row in nats, float64."""
    return entropy_of(
        log_softmax(logits, temperature=temperature, softcap=softcap, valid_vocab=valid_vocab)
    )


def logprob_diff(
    tuned: Tensor,
    untuned: Tensor,
    target: Tensor,
    *,
    temperature: tuple[float | Tensor, float | Tensor] = (1.0, 1.0),
    softcap: tuple[float, float] = (0.0, 0.0),
    valid_vocab: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """log p_tuned − log p_untuned at the targets, float64; both models must have the target."""
    q_t, q_u = (
        log_softmax(z, temperature=t, softcap=c, valid_vocab=v)
        for z, t, c, v in zip((tuned, untuned), temperature, softcap, valid_vocab, strict=True)
    )
    vocab = min(q_t.shape[-1], q_u.shape[-1])
    return pick(q_t, target, vocab) - pick(q_u, target, vocab)


def within(value: Tensor, expected: Tensor, tolerance: Tensor | float) -> bool:
    """NaN where NaN is expected, the same infinities, and every finite error ≤ tolerance."""
    value, expected = value.detach().double(), expected.detach().double()
    if value.shape != expected.shape or bool((value.isnan() != expected.isnan()).any()):
        return False
    infinite = expected.isinf()
    if bool((value[infinite] != expected[infinite]).any()):
        return False
    ordinary = ~(infinite | expected.isnan())
    limit = torch.as_tensor(tolerance, dtype=torch.float64).expand(expected.shape)[ordinary]
    return bool(((value - expected)[ordinary].abs() <= limit).all())


def largest_error(value: Tensor, expected: Tensor) -> float:
    """The largest |value − expected| (NaN if any is)."""
    return float((value.detach().double() - expected.detach().double()).abs().max())
