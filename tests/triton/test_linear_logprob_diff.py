"""linear_logprob_diff on the interpreter (`tests/test_linear_logprob_diff.py`); a DPO with it."""

import pytest
import torch
from test_linear_logprob_diff import (  # noqa: F401
    PAIRS,
    expected_diff,
    pair_inputs,
    test_a_frozen_side_gets_no_gradient,
    test_a_target_that_one_head_lacks_has_a_nan_gradient,
    test_compiled_without_a_graph_break_forward_and_backward,
    test_digits_of_a_small_difference_survive,
    test_empty_batches,
    test_gradients_match_float64_autograd,
    test_ignored_invalid_and_masked_targets,
    test_it_is_the_difference_of_two_logprobs,
    test_k_targets_and_tensor_temperatures,
    test_the_op_passes_opcheck,
    tolerance,
)
from torch.nn import functional

from support import float64
from w2s_kernels import Head, linear_logprob_diff
from w2s_kernels.triton_kernels.linear_settings import use_path


@pytest.mark.parametrize("path", [None, "chunked"])
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_values_match_float64_for_every_pair(backend, kinds, path):
    args = pair_inputs(kinds, 9)
    with use_path(path):
        value = linear_logprob_diff(*args, temperature=(0.7, 1.3))
    expected = expected_diff(*args, temperature=(0.7, 1.3))
    assert float64.within(value, expected, tolerance(expected, *args[:4], temperature=0.7))


VOCAB, WIDTH, BETA, STEPS = 300, 16, 0.5, 20


def dpo_steps(differences) -> tuple[list[float], torch.Tensor]:
    """The losses and the trained weight of 20 steps on two preference pairs with prompts.

    `differences(hidden, weight, frozen hidden, frozen weight, target)` gives a token's difference.
    """
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, WIDTH, generator=g)
    embedding = torch.randn(VOCAB, WIDTH, generator=g)
    tokens = torch.randint(VOCAB, (4, 5), generator=g)  # rows: chosen, chosen, rejected, rejected
    target = tokens[:, 1:].clone()
    target[:, 0] = -100  # the prompt
    frozen_weight, frozen_hidden = weight.clone(), embedding[tokens[:, :-1]]
    weight.requires_grad_()
    embedding.requires_grad_()
    optimizer = torch.optim.AdamW([weight, embedding], lr=1e-2)
    losses = []
    for _ in range(STEPS):
        hidden = functional.embedding(tokens[:, :-1], embedding)
        chosen, rejected = differences(
            hidden, weight, frozen_hidden, frozen_weight, target
        ).sum(1).chunk(2)  # fmt: skip
        loss = -functional.logsigmoid(BETA * (chosen - rejected)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, weight.detach()


def plain_difference(hidden, weight, frozen_hidden, frozen_weight, target):
    kept = target != -100
    ids = target.clamp(min=0).unsqueeze(-1)
    tuned = (hidden @ weight.T).log_softmax(-1).gather(-1, ids).squeeze(-1)
    untuned = (frozen_hidden @ frozen_weight.T).log_softmax(-1).gather(-1, ids).squeeze(-1)
    return (tuned - untuned) * kept


@pytest.mark.slow
def test_dpo_takes_the_steps_that_plain_torch_takes(backend):
    def ours(hidden, weight, frozen_hidden, frozen_weight, target):
        return linear_logprob_diff(hidden, Head(weight), frozen_hidden, Head(frozen_weight), target)

    losses, weight = dpo_steps(ours)
    plain_losses, plain_weight = dpo_steps(plain_difference)
    assert losses[-1] < 0.5 * losses[0]
    assert max(abs(a - b) for a, b in zip(losses, plain_losses, strict=True)) <= 1e-5
    assert (weight - plain_weight).abs().max() <= 1e-5
