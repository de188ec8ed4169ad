"""Losses, gradients and ranks of heads against torch's autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivace.medusa import heads
from vivace.medusa.heads import Adam, FrozenHead, head_gradient, head_output, label_ranks

NUM_EXAMPLES, WIDTH, VOCAB = 13, 12, 50


def arrays(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x, table = rng.standard_normal((NUM_EXAMPLES, WIDTH)), rng.standard_normal((VOCAB, WIDTH))
    weight, bias = 0.3 * rng.standard_normal((WIDTH, WIDTH)), 0.3 * rng.standard_normal(WIDTH)
    labels = rng.integers(0, VOCAB, NUM_EXAMPLES).astype(np.int32)
    return *(array.astype(np.float32) for array in (x, table, weight, bias)), labels


def torch_loss(x, table, weight, bias, labels, softcap):
    hidden = x + torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))
    logits = hidden @ table.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.nn.functional.cross_entropy(logits, labels), logits


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("logits_at_once", [1 << 23, 4 * VOCAB])
def test_gradient_is_that_of_autograd(softcap: float | None, logits_at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", logits_at_once)
    x, table, weight, bias, labels = arrays(1)
    loss, d_weight, d_bias = head_gradient(x, weight, bias, labels, FrozenHead(table, softcap))
    w = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    true, _ = torch_loss(
        *(torch.tensor(a, dtype=torch.float64) for a in (x, table)), w, b, torch.tensor(labels).long(), softcap
    )
    true.backward()
    assert loss == pytest.approx(true.item(), rel=1e-5)
    np.testing.assert_allclose(d_weight, w.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(d_bias, b.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_ranks_count_the_better_logits(softcap: float | None, monkeypatch) -> None:
    monkeypatch.setattr(heads, "LOGITS_AT_ONCE", 5 * VOCAB)
    x, table, weight, bias, labels = arrays(2)
    output, _ = head_output(x, weight, bias)
    ranks = label_ranks(output, labels, FrozenHead(table, softcap))
    _, logits = torch_loss(*map(torch.tensor, (x, table, weight, bias)), torch.tensor(labels).long(), softcap)
    order = logits.argsort(dim=1, descending=True)
    assert ranks.tolist() == [(order[i] == label).nonzero().item() for i, label in enumerate(labels.tolist())]


def test_a_head_of_zeros_guesses_what_the_model_guesses() -> None:
    x, _, weight, bias, _ = arrays(3)
    output, _ = head_output(x, 0 * weight, 0 * bias)
    np.testing.assert_array_equal(output, x)


def test_large_values_stay_finite() -> None:
    x, table, weight, bias, labels = arrays(4)
    loss, d_weight, d_bias = head_gradient(1e3 * x, 1e3 * weight, bias, labels, FrozenHead(table, None))
    assert np.isfinite(loss)
    assert np.isfinite(d_weight).all()
    assert np.isfinite(d_bias).all()


def test_adam_is_that_of_torch() -> None:
    rng = np.random.default_rng(5)
    start = rng.standard_normal((3, 4)).astype(np.float32)
    gradients = rng.standard_normal((6, 3, 4)).astype(np.float32)
    ours = start.copy()
    adam = Adam([(np.zeros_like(start), np.zeros_like(start))])
    theirs = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(Adam.beta_1, Adam.beta_2), eps=Adam.epsilon)
    for step, gradient in enumerate(gradients, 1):
        adam.step([ours], [gradient], 0.02, step)
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
