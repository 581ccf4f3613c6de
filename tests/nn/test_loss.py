from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_cpc.nn import info_nce
from tests import reference

from .toys import generator, normal

# float32 sums of a few dozen logits of size about ten.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def problem(n=7, n_targets=11, width=4, seed=0):
    predictions = normal(n, width, seed=seed).requires_grad_()
    targets = normal(n_targets, width, seed=seed + 1).requires_grad_()
    positives = torch.randint(n_targets, (n,), generator=generator(seed))
    return predictions, targets, positives


def value_and_gradients(predictions, targets, positives, **settings):
    loss, accuracy = info_nce(predictions, targets, positives, **settings)
    return loss, accuracy, *torch.autograd.grad(loss, (predictions, targets))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_is_its_slow_twin(n, n_targets, width, seed):
    predictions, targets, positives = problem(n, n_targets, width, seed)
    loss, accuracy = info_nce(predictions, targets, positives)
    expected, expected_accuracy = reference.info_nce(
        reference.array(predictions), reference.array(targets), positives.tolist()
    )
    np.testing.assert_allclose(loss.item(), expected, **CLOSE)
    np.testing.assert_allclose(accuracy.item(), expected_accuracy, rtol=1e-6)


def test_asymmetric_toy_by_hand():
    """Two predictions, three targets: the softmax is over targets, the positive counts once."""
    predictions, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    loss, accuracy = info_nce(predictions, targets, torch.tensor([2, 1]))
    first = -log(exp(3) / (exp(0) + exp(1) + exp(3)))
    second = -log(exp(2) / (exp(0) + exp(2) + exp(6)))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert accuracy.item() == 0.5


@pytest.mark.parametrize("n_candidates", [1, 2, 17, 500])
def test_equal_scores_give_the_log_of_the_candidates(n_candidates):
    loss, _ = info_nce(torch.zeros(3, 2), normal(n_candidates, 2), torch.zeros(3, dtype=torch.long))
    assert loss.item() == pytest.approx(log(n_candidates), abs=1e-5)


def test_perfect_predictions_give_nothing_to_lose():
    loss, accuracy = info_nce(50 * torch.eye(6), torch.eye(6), torch.arange(6))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert accuracy.item() == 1


def test_predictions_of_the_wrong_target_are_counted_wrong():
    loss, accuracy = info_nce(5 * torch.eye(4), torch.eye(4), torch.arange(4).roll(1))
    assert loss.item() > log(4)
    assert accuracy.item() == 0


@pytest.mark.parametrize("n_candidates_held", [1, 10, 11, 12, 23, 33, 76, 77, 10_000])
def test_chunks_change_neither_value_nor_accuracy_nor_gradient(n_candidates_held):
    whole = value_and_gradients(*problem())
    chunked = value_and_gradients(*problem(), logits_budget=n_candidates_held)
    for a, b in zip(chunked, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("logits_budget", [1, 30, 10_000])
def test_gradient_is_that_of_cross_entropy(logits_budget):
    predictions, targets, positives = problem()
    loss = F.cross_entropy(predictions @ targets.T, positives)
    expected = loss, *torch.autograd.grad(loss, (predictions, targets))
    loss, _, *gradients = value_and_gradients(
        predictions, targets, positives, logits_budget=logits_budget
    )
    for a, b in zip((loss, *gradients), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradient_follows_the_value_along_a_line():
    """Central difference; float32 and a step of 1e-2 leave three digits."""
    predictions, targets, positives = problem()
    _, _, slope, _ = value_and_gradients(predictions, targets, positives)
    line = normal(*predictions.shape, seed=5)
    ahead, _ = info_nce(predictions + 0.01 * line, targets, positives)
    behind, _ = info_nce(predictions - 0.01 * line, targets, positives)
    assert ((ahead - behind) / 0.02).item() == pytest.approx((slope * line).sum().item(), rel=1e-2)


@pytest.mark.parametrize("factor", [2.0, 0.25, -1.0])
def test_upstream_gradient_scales_the_gradient(factor):
    predictions, targets, positives = problem()
    _, _, *expected = value_and_gradients(predictions, targets, positives)
    loss, _ = info_nce(predictions, targets, positives)
    gradients = torch.autograd.grad(factor * loss, (predictions, targets))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, factor * b)


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_for_one_input_alone(which):
    inputs = problem()
    expected = value_and_gradients(*inputs)[2 + which]
    alone = [t.detach() for t in inputs]
    alone[which].requires_grad_()
    loss, _ = info_nce(*alone)
    loss.backward()
    torch.testing.assert_close(alone[which].grad, expected)
    assert alone[1 - which].grad is None


def test_gradient_where_predictions_are_the_targets():
    """The same tensor on both sides gets the sum of both gradients."""
    z = normal(6, 3).requires_grad_()
    positives = torch.arange(6).roll(1)
    loss, _ = info_nce(z, z, positives)
    expected = torch.autograd.grad(F.cross_entropy(z @ z.T, positives), z)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected, rtol=1e-5, atol=1e-6)


def test_value_without_gradients():
    predictions, targets, positives = problem()
    with torch.no_grad():
        loss, accuracy = info_nce(predictions, targets, positives)
    assert not loss.requires_grad
    torch.testing.assert_close((loss, accuracy), info_nce(predictions, targets, positives))


def test_accuracy_has_no_gradient():
    _, accuracy = info_nce(*problem())
    assert not accuracy.requires_grad


def test_huge_logits_stay_finite_and_exact():
    """log(softmax + eps) would stop at -log(eps), with no gradient left."""
    predictions = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    targets = torch.tensor([[1.0], [0.0]])
    loss, _ = info_nce(predictions, targets, torch.tensor([1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    torch.testing.assert_close(predictions.grad, torch.tensor([[0.5], [-0.5]]))


def test_the_order_of_the_candidates_is_of_no_account():
    predictions, targets, positives = problem()
    order = torch.randperm(len(targets), generator=generator())
    shuffled = info_nce(predictions, targets[order], order.argsort()[positives])
    torch.testing.assert_close(shuffled, info_nce(predictions, targets, positives))


def test_half_precision_is_computed_in_single():
    predictions, targets, positives = problem()
    halves = predictions.bfloat16(), targets.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = info_nce(*halves, positives)
    assert loss.dtype == torch.float32
    expected, _ = info_nce(*(half.float() for half in halves), positives)
    torch.testing.assert_close(loss, expected)


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation gives back."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.n_elements = max(self.n_elements, value.numel())
        return result


@pytest.mark.parametrize("n", [100, 400])
def test_no_tensor_exceeds_the_budget(n):
    predictions, targets, positives = problem(n, 500, width=2)
    with LargestTensor() as largest:
        value_and_gradients(predictions, targets, positives, logits_budget=2_600)
    assert largest.n_elements == 2_500  # Five whole rows of logits, however many there are.


def test_the_default_budget_bounds_a_large_batch():
    predictions, targets, positives = problem(3_000, 6_000, width=1)
    with LargestTensor() as largest:
        info_nce(predictions.detach(), targets.detach(), positives)
    assert largest.n_elements <= 2**23 < 3_000 * 6_000
