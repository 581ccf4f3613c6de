"""InfoNCE over a batch of predictions, in bounded memory."""

import torch

__all__ = ["info_nce"]

# 2**23 logits are 32 MiB in float32.
LOGITS_BUDGET = 2**23


def info_nce(predictions, targets, positives, *, logits_budget=LOGITS_BUDGET):
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
    logits_budget : int, default=2**23
        Largest number of logits held at once; at least one row of them is.

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
    with torch.autocast(predictions.device.type, enabled=False):
        return _InfoNCE.apply(predictions.float(), targets.float(), positives, logits_budget)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, predictions, targets, positives, logits_budget):
        n, rows = len(predictions), max(1, logits_budget // len(targets))
        wants_grad = any(ctx.needs_input_grad[:2])
        grad_predictions = torch.empty_like(predictions) if wants_grad else None
        grad_targets = torch.zeros_like(targets) if wants_grad else None
        loss = predictions.new_zeros(())
        n_correct = predictions.new_zeros(())
        for start in range(0, n, rows):
            block = predictions[start : start + rows]
            positive = positives[start : start + rows, None]
            logits = block @ targets.T
            log_normaliser = logits.logsumexp(1, keepdim=True)
            loss += (log_normaliser - logits.gather(1, positive)).sum()
            n_correct += (logits.argmax(1, keepdim=True) == positive).sum()
            if wants_grad:
                # d loss / d logits = softmax - one-hot of the positive.
                residual = logits.sub_(log_normaliser).exp_()
                residual.scatter_add_(1, positive, residual.new_full(positive.shape, -1.0))
                torch.mm(residual, targets, out=grad_predictions[start : start + rows])
                grad_targets.addmm_(residual.T, block)
        if wants_grad:
            ctx.save_for_backward(grad_predictions.div_(n), grad_targets.div_(n))
        accuracy = n_correct / n
        ctx.mark_non_differentiable(accuracy)
        return loss / n, accuracy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, _):
        grad_predictions, grad_targets = ctx.saved_tensors
        return grad_predictions * grad_loss, grad_targets * grad_loss, None, None
