"""Contrastive losses over a batch of predictions, in bounded memory."""

from math import ceil

import torch
from torch.nn import functional as F

from .checks import check_pairs
from .names import check_name

__all__ = [
    "OBJECTIVES",
    "contrast",
    "contrast_drawn",
    "contrast_within",
    "info_nce",
    "n_hardest",
]

OBJECTIVES = ("infonce", "bce")
# 2**23 logits are 32 MiB in float32; a GPU has more room, and waits for the start of each block.
LOGITS_BUDGETS = {"cpu": 2**23, "cuda": 2**25}


def info_nce(predictions, targets, positives, *, logits_budget=None):
    """InfoNCE: pick each prediction's own target out of all targets.

    L_N = - mean_i log( exp(s_ii') / sum_j exp(s_ij) ),  s_ij = predictions_i . targets_j,

    where i' is the positive of i: a cross-entropy on logits. The logits exist in blocks of rows
    only, and the gradient is formed block by block beside the value, so that memory is bounded by
    `logits_budget` however many predictions and targets there are.

    Parameters
    ----------
    predictions : Tensor of shape (n_predictions, projection)
        W_k c of equation 4, scaled by the inverse temperature.
    targets : Tensor of shape (n_candidates, projection)
        The candidates, positives among them.
    positives : LongTensor of shape (n_predictions,)
        Row of `targets` that belongs to each prediction.
    logits_budget : int or None, default=None
        Largest number of logits held at once; at least one row of them is. None: 2**23 on a CPU,
        2**25 on CUDA.

    Returns
    -------
    loss : Tensor, scalar
        In nats. Equal scores give log(n_candidates). Its gradient can be taken once, not twice.
    accuracy : Tensor, scalar, without gradient
        Share of predictions whose largest logit is the positive's.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018, equation 4.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cpc.nn import info_nce
    >>> loss, _ = info_nce(torch.zeros(3, 2), torch.ones(17, 2), torch.tensor([0, 1, 2]))
    >>> round(loss.item(), 3)  # ln 17
    2.833
    """
    loss, accuracy, _ = contrast(predictions, targets, positives, logits_budget=logits_budget)
    return loss, accuracy


def contrast(
    predictions,
    targets,
    positives,
    *,
    objective="infonce",
    n_hard=None,
    logits_budget=None,
):
    """Tell each prediction's own target from the others, which all predictions share.

    Parameters
    ----------
    predictions, targets, positives, logits_budget
        As in `info_nce`.
    objective : {"infonce", "bce"}, default="infonce"
        "bce" is the binary form, which asks of each candidate on its own whether it is the
        positive: half of log(1 + exp(-s)) of the positive plus half of the mean of log(1 + exp(s))
        over the negatives. Scores of zero give log(2).
    n_hard : int or None, default=None
        Of each prediction's negatives only this many enter, those with the greatest scores.
        None: all.

    Returns
    -------
    loss, accuracy : Tensor, scalar
        As in `info_nce`.
    info_nce : Tensor, scalar, without gradient
        L_N of the same scores and candidates, whatever the objective.

    Raises
    ------
    ValueError
        If the objective is unknown, `n_hard` is below 1, or shapes do not belong together.
    """
    check_name("objective", objective, OBJECTIVES)
    check_pairs(predictions, targets, positives)
    if n_hard is not None and n_hard < 1:
        raise ValueError(f"n_hard={n_hard!r} must be at least 1, or None for all negatives.")
    return _run(_Shared(positives), predictions, targets, objective, n_hard, logits_budget)


def contrast_drawn(
    predictions, targets, draw, n_candidates, *, objective="infonce", logits_budget=None
):
    """Tell each prediction's own target from negatives of its own.

    Parameters
    ----------
    predictions, targets, objective, logits_budget
        As in `contrast`; the budget counts the numbers of the gathered candidates, too.
    draw : callable
        `draw(start, stop)` gives a LongTensor of shape (stop - start, n_candidates): the distinct
        rows of `targets` that are the candidates of those predictions, the positive last.
    n_candidates : int

    Returns
    -------
    loss, accuracy, info_nce : Tensor, scalar
        As in `contrast`. A tie of the positive and a negative counts as an error.
    """
    check_name("objective", objective, OBJECTIVES)
    return _run(_Drawn(draw, n_candidates), predictions, targets, objective, None, logits_budget)


def contrast_within(predictions, targets, *, objective="infonce", logits_budget=None):
    """Tell each prediction's own target from the other targets of its group.

    Parameters
    ----------
    predictions, targets : Tensor of shape (groups, n, projection)
        Target i is the positive of prediction i of its group.
    objective, logits_budget
        As in `contrast`. Groups are taken as many at a time as the budget holds.

    Returns
    -------
    loss, accuracy, info_nce : Tensor, scalar
        As in `contrast`, the mean over all.
    """
    n = targets.shape[1]
    if n * n <= _budget(logits_budget, predictions):
        flat = predictions.flatten(0, 1), targets.flatten(0, 1)
        return _run(_Within(n), *flat, objective, None, logits_budget)
    positives = torch.arange(n, device=targets.device)
    groups = [
        contrast(*group, positives, objective=objective, logits_budget=logits_budget)
        for group in zip(predictions, targets, strict=True)
    ]
    return tuple(torch.stack(part).mean() for part in zip(*groups, strict=True))


def n_hardest(share, n_candidates):
    """How many negatives are a share of all, the positive excluded: rounded up, at least one."""
    return max(1, min(ceil(share * (n_candidates - 1)), n_candidates - 1))


def _budget(given, predictions):
    if given is not None:
        return given
    return LOGITS_BUDGETS.get(predictions.device.type, LOGITS_BUDGETS["cpu"])


def _run(candidates, predictions, targets, objective, n_hard, logits_budget):
    with torch.autocast(predictions.device.type, enabled=False):
        return _Contrast.apply(
            predictions.float(),
            targets.float(),
            candidates,
            objective,
            n_hard,
            _budget(logits_budget, predictions),
        )


class _Shared:
    """All predictions have all targets as candidates."""

    def __init__(self, positives):
        self.positives = positives

    def rows(self, predictions, targets, budget):
        return max(1, budget // len(targets))

    def score(self, block, targets, start):
        self.block, self.targets = block, targets
        return block @ targets.T, self.positives[start : start + len(block), None]

    def add_gradients(self, residual, into_predictions, into_targets):
        torch.mm(residual, self.targets, out=into_predictions)
        into_targets.addmm_(residual.T, self.block)


class _Within:
    """Rows in groups of n: predictions have the targets of their group as candidates."""

    def __init__(self, n):
        self.n = n

    def rows(self, predictions, targets, budget):
        return self.n * max(1, budget // self.n**2)

    def score(self, block, targets, start):
        self.own = slice(start, start + len(block))
        self.block = block.unflatten(0, (-1, self.n))
        self.targets = targets[self.own].unflatten(0, (-1, self.n))
        positive = torch.arange(self.n, device=block.device).repeat(len(self.block))
        return (self.block @ self.targets.transpose(1, 2)).flatten(0, 1), positive[:, None]

    def add_gradients(self, residual, into_predictions, into_targets):
        residual = residual.unflatten(0, (-1, self.n))
        into_predictions.copy_((residual @ self.targets).flatten(0, 1))
        into_targets[self.own] = (residual.transpose(1, 2) @ self.block).flatten(0, 1)


class _Drawn:
    """Every prediction has candidates of its own, rows of the targets."""

    def __init__(self, draw, n_candidates):
        self.draw = draw
        self.n_candidates = n_candidates

    def rows(self, predictions, targets, budget):
        # Many candidates each are cheaper picked out of the product with all targets.
        self.is_dense = 8 * self.n_candidates > len(targets)
        width = len(targets) if self.is_dense else self.n_candidates * predictions.shape[1]
        return max(1, budget // width)

    def score(self, block, targets, start):
        index = self.draw(start, start + len(block))
        self.block, self.targets, self.index = block, targets, index
        if self.is_dense:
            logits = (block @ targets.T).gather(1, index)
        else:
            logits = (targets[index] @ block[:, :, None])[:, :, 0]
        return logits, torch.full_like(index[:, :1], index.shape[1] - 1)

    def add_gradients(self, residual, into_predictions, into_targets):
        if self.is_dense:
            wide = residual.new_zeros(len(residual), len(self.targets))
            wide.scatter_(1, self.index, residual)
            torch.mm(wide, self.targets, out=into_predictions)
            into_targets.addmm_(wide.T, self.block)
        else:
            gathered = self.targets[self.index]  # (block, candidates, projection)
            into_predictions.copy_((residual[:, None] @ gathered)[:, 0])
            pushed = residual[:, :, None] * self.block[:, None]
            into_targets.index_add_(0, self.index.flatten(), pushed.flatten(0, 1))


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, predictions, targets, candidates, objective, n_hard, logits_budget):
        n, rows = len(predictions), candidates.rows(predictions, targets, logits_budget)
        wants_grad = any(ctx.needs_input_grad[:2])
        grad_predictions = torch.empty_like(predictions) if wants_grad else None
        grad_targets = torch.zeros_like(targets) if wants_grad else None
        loss, info_nce, n_correct = (predictions.new_zeros(()) for _ in range(3))
        for start in range(0, n, rows):
            block = predictions[start : start + rows]
            logits, positive = candidates.score(block, targets, start)
            if n_hard is not None:
                logits = only_hardest(logits, positive, n_hard)
            own, top = logits.gather(1, positive), logits.amax(1, keepdim=True)
            n_correct += _n_first(logits, positive, own, top)
            # The greatest probability is exp(top) / normaliser, and never too small for a log.
            probabilities = logits.softmax(1)
            log_normaliser = top - probabilities.amax(1, keepdim=True).log()
            info_nce += (log_normaliser - own).sum()
            if objective == "bce":
                loss += _binary_loss(logits, positive, n_hard)
            if wants_grad:
                residual = _RESIDUALS[objective](logits, positive, probabilities, n_hard)
                into = grad_predictions[start : start + rows]
                candidates.add_gradients(residual, into, grad_targets)
        if wants_grad:
            ctx.save_for_backward(grad_predictions.div_(n), grad_targets.div_(n))
        accuracy, info_nce = n_correct / n, info_nce / n
        loss = info_nce.clone() if objective == "infonce" else loss / n
        ctx.mark_non_differentiable(accuracy, info_nce)
        return loss, accuracy, info_nce

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, *_):
        grad_predictions, grad_targets = ctx.saved_tensors
        return grad_predictions * grad_loss, grad_targets * grad_loss, None, None, None, None


def only_hardest(logits, positive, n_hard):
    """The logits with all but the positive's and the `n_hard` greatest others at minus infinity."""
    others = logits.scatter(1, positive, -torch.inf)
    hardest = others.topk(min(n_hard, logits.shape[1] - 1), 1)
    kept = torch.full_like(logits, -torch.inf).scatter_(1, hardest.indices, hardest.values)
    return kept.scatter_(1, positive, logits.gather(1, positive))


def _n_first(logits, positive, own, top):
    """How many positives are their row's greatest, the first of equals."""
    if logits.device.type == "cpu":
        # The search is slow there, and needless where the positive is not among the greatest.
        rows = (own == top)[:, 0].nonzero()[:, 0]
        logits, positive = logits[rows], positive[rows]
    return (logits.argmax(1, keepdim=True) == positive).sum()


def _n_negatives(logits, n_hard):
    n = logits.shape[1] - 1
    return max(1, n if n_hard is None else min(n_hard, n))


def _binary_loss(logits, positive, n_hard):
    own = logits.gather(1, positive)
    others = F.softplus(logits.scatter(1, positive, -torch.inf)).sum()
    return (F.softplus(-own).sum() + others / _n_negatives(logits, n_hard)) / 2


def _info_nce_residual(logits, positive, probabilities, n_hard):
    """d loss / d logits = softmax - one-hot of the positive; overwrites the probabilities."""
    minus_one = probabilities.new_full(positive.shape, -1.0)
    return probabilities.scatter_add_(1, positive, minus_one)


def _binary_residual(logits, positive, probabilities, n_hard):
    """d loss / d logits: half of sigmoid - 1 for the positive, half of the negatives' mean."""
    own = -torch.sigmoid(-logits.gather(1, positive)) / 2
    residual = logits.sigmoid_().div_(2 * _n_negatives(logits, n_hard))
    return residual.scatter_(1, positive, own)


_RESIDUALS = {"infonce": _info_nce_residual, "bce": _binary_residual}
