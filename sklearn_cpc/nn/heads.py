"""Predictions, their candidates and the loss of every head (a direction and a step)."""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn
from torch.nn import functional as F

from .loss import contrast, contrast_drawn, contrast_within, info_nce, n_hardest
from .names import check_name
from .negatives import DRAWN, OwnNegatives, TargetQueue
from .patches import DIRECTIONS

__all__ = ["CPCOutput", "ContrastiveHeads", "PredictionMaps", "first_row_first"]


def first_row_first(grid, direction):
    """Turn a grid so that prediction in this direction runs from the first row down.

    Parameters
    ----------
    grid : Tensor of shape (batch, rows, cols, ...)
    direction : {"down", "up", "right", "left"}

    Returns
    -------
    turned : Tensor of shape (batch, rows, cols, ...) or (batch, cols, rows, ...)
    """
    check_name("direction", direction, DIRECTIONS)
    return torch.rot90(grid, DIRECTIONS[direction], (1, 2))


def _as_it_is(x):
    return x


def _context(network, z, first_step):
    """The contexts that predict something: in the lowest rows no target is left."""
    if getattr(network, "sees_rows_above_only", False):
        z = z[:, : z.shape[1] - first_step]
    return network(z)


def _fixed(target_map):
    """A map from latents to targets that does not learn."""
    if isinstance(target_map, nn.Identity):
        return target_map
    return partial(F.linear, weight=target_map.weight.detach())


@dataclass
class CPCOutput:
    """Loss of a batch and what it is made of, one entry per head (a direction and a step).

    Attributes
    ----------
    loss : Tensor, scalar
        Mean over the heads, in nats, with gradient.
    losses, accuracies, bounds : Tensor of shape (n_heads,)
        The objective in nats; share of positives ranked first; the lower bound
        log N - L_N on the mutual information of context and target in nats (van den Oord et al.
        2018, appendix), where L_N is InfoNCE of the same scores, whatever the objective.
    n_candidates : Tensor of shape (n_heads,)
        N, the positive included. 0 for the heads of a stage that is not trained just now, whose
        other entries are 0, too.
    """

    loss: torch.Tensor
    losses: torch.Tensor
    accuracies: torch.Tensor
    bounds: torch.Tensor
    n_candidates: torch.Tensor

    @classmethod
    def of(cls, results, n_before=0, n_heads=None, share=1.0):
        """From (loss, accuracy, N, InfoNCE) of heads, the first of them after `n_before` others."""
        losses, accuracies, n_candidates, info_nces = zip(*results, strict=True)
        losses, accuracies = torch.stack(losses), torch.stack(accuracies)
        n_candidates = torch.tensor(n_candidates, dtype=torch.float32)
        n_candidates = n_candidates.to(losses.device, non_blocking=True)
        bounds = n_candidates.log() - torch.stack(info_nces).detach()
        parts = [losses.detach(), accuracies, bounds, n_candidates]
        if n_heads is not None:
            around = n_before, n_heads - n_before - len(losses)
            parts = [F.pad(part, around) for part in parts]
        return cls(share * losses.mean(), *parts)

    @classmethod
    def joined(cls, outputs):
        """The sum of the outputs of stages, each of which is 0 in the others' heads."""
        if len(outputs) == 1:
            return outputs[0]
        names = ("loss", "losses", "accuracies", "bounds", "n_candidates")
        return cls(*(sum(getattr(output, name) for output in outputs) for name in names))


class PredictionMaps(nn.Module):
    """The linear maps between latents of one width and the scores, and queues of targets."""

    def __init__(self, width, projection_dim, plan, queue_size=None):
        super().__init__()
        projected = projection_dim or width

        def target_map():
            if projection_dim is None:
                return nn.Identity()
            return nn.Linear(width, projection_dim, bias=False)

        self.targets = nn.ModuleDict({d: target_map() for d in plan})
        # W[direction][i] is W_k of the i-th step of the direction's plan.
        self.W = nn.ModuleDict(
            {
                d: nn.ModuleList(nn.Linear(width, projected, bias=False) for _ in steps)
                for d, steps in plan.items()
            }
        )
        directions = plan if queue_size else ()
        self.queues = nn.ModuleDict({d: TargetQueue(queue_size, projected) for d in directions})


class _OfLength(torch.autograd.Function):
    """`length * F.normalize(x, dim=-1)`, forward and backward in half as many passes over x."""

    @staticmethod
    def forward(ctx, x, length):
        factor = length / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12)
        y = x * factor
        ctx.save_for_backward(y, factor)
        ctx.length = length
        return y

    @staticmethod
    def backward(ctx, grad):
        # Of the gradient, what is along y is lost: dx = |y|/|x| (grad - y (y . grad) / |y|^2).
        y, factor = ctx.saved_tensors
        along = (grad * y).sum(-1, keepdim=True) / -(ctx.length**2)
        return torch.addcmul(grad, y, along).mul_(factor), None


class _Vectors:
    """The latents and contexts of one direction, and what is scored of them.

    Predictions and targets are formed once for all steps, in one matrix product each.
    """

    def __init__(self, heads, z, c, steps, W, target_map):
        self.heads = heads
        self.z = z
        self.c = c
        self.steps = steps
        self.W = W
        self.target_map = target_map

    @cached_property
    def targets(self):
        """(batch, rows, cols, projection)."""
        return self.heads._projected(self.z, self.target_map)

    @cached_property
    def _predictions(self):
        z_hat = F.linear(self.c, torch.cat([W_k.weight for W_k in self.W]))
        z_hat = z_hat.unflatten(-1, (len(self.W), -1))  # (batch, rows, cols, steps, projection)
        return self.heads._as_predictions(z_hat).unbind(-2)

    def predictions(self, k):
        """Those that have a target, (batch, rows - k, cols, projection)."""
        return self._predictions[self.steps.index(k)][:, : self.z.shape[1] - k]

    def drawn(self, k, n, generator):
        """Predictions and targets of n pairs at the most, and nothing computed for the others."""
        batch, rows, cols, latent = self.z.shape
        n_pairs = batch * (rows - k) * cols
        if n >= n_pairs:
            return self.predictions(k).flatten(0, 2), self.targets[:, k:].flatten(0, 2)
        chosen = torch.randperm(n_pairs, generator=generator, device=self.z.device)[:n]
        contexts = self.c[:, : rows - k].reshape(-1, latent)[chosen]
        own = self.z[:, k:].reshape(-1, latent)[chosen]
        z_hat = self.heads._as_predictions(self.W[self.steps.index(k)](contexts))
        return z_hat, self.heads._projected(own, self.target_map)


class ContrastiveHeads(nn.Module):
    """What `CPCModel` does with latents; its settings are the model's."""

    # In training by several processes: a callable that brings the rows of all of them together, or
    # one that gives each a generator of its own to draw negatives from.
    gather = None
    own_generator = None

    def _results(self, z, contexts, maps, generator, slow_z=None):
        """(loss, accuracy, N, InfoNCE) of each head; without contexts z predicts itself.

        The targets are formed of `slow_z`, where there is one.
        """
        gather = self.gather if self.gather and self.training else _as_it_is
        if self.own_generator and self.training and self.negatives in DRAWN:
            generator = self.own_generator(generator)
        everyones = gather(z if slow_z is None else slow_z)
        results = []
        for direction, steps in self.plan.items():
            turned = c = first_row_first(everyones, direction)
            if contexts is not None:
                own = first_row_first(z, direction)
                c = gather(_context(contexts[direction], own, steps[0]))
            target_map = maps.targets[direction]
            if slow_z is not None:
                target_map = _fixed(target_map)
            vectors = _Vectors(self, turned, c, steps, maps.W[direction], target_map)
            queue = maps.queues[direction] if self.negatives == "queue" and self.training else None
            stored = None if queue is None else queue.targets()
            results += [self._head(vectors, k, stored, generator) for k in steps]
            if queue is not None:
                queue.add(self._projected(turned.flatten(0, 2), target_map), generator)
        return results

    def _head(self, vectors, k, stored, generator):
        if self.negatives in ("groups", "image"):
            return self._contrast_groups(vectors.predictions(k), vectors.targets[:, k:])
        if self.negatives == "place":
            return self._contrast_places(vectors.predictions(k), vectors.targets[:, k:])
        if self.negatives == "mixed":
            return self._contrast_mixed(vectors.predictions(k), vectors.targets[:, k:], generator)
        return self._contrast(*self._pairs(vectors, k, generator), stored)

    def _pairs(self, vectors, k, generator):
        """Predictions, candidates, and the candidate that is each one's own target k rows on."""
        if self.n_candidates is None or self.negatives == "batch":
            targets = vectors.targets  # (batch, rows, cols, projection)
            index = torch.arange(targets[..., 0].numel(), device=targets.device)
            positives = index.view(targets.shape[:3])[:, k:].flatten()
            return vectors.predictions(k).flatten(0, 2), targets.flatten(0, 2), positives
        z_hat, targets = vectors.drawn(k, self.n_candidates, generator)
        return z_hat, targets, torch.arange(len(targets), device=targets.device)

    def _projected(self, candidates, target_map):
        targets = target_map(candidates).float()
        return _OfLength.apply(targets, 1.0) if self.similarity == "cosine" else targets

    def _as_predictions(self, z_hat):
        """Divided by the temperature: the products with targets are the scores."""
        z_hat = z_hat.float()
        if self.similarity == "cosine":
            return _OfLength.apply(z_hat, 1 / self.temperature)
        return z_hat / self.temperature

    def _contrast(self, z_hat, targets, positives, stored=None):
        """Against candidates that all pairs share, and the targets of earlier batches."""
        if stored is not None:
            targets = torch.cat([targets, stored])
        n_candidates = len(targets)
        if self.negatives != "hard" and self.objective == "infonce":
            loss, accuracy = info_nce(z_hat, targets, positives)
            return loss, accuracy, n_candidates, loss
        n_hard = None
        if self.negatives == "hard":
            share = self.hard_share if self.training else self.hard_fraction
            n_hard = n_hardest(share, n_candidates)
            n_candidates = min(n_hard + 1, n_candidates)
        loss, accuracy, nce = contrast(
            z_hat, targets, positives, objective=self.objective, n_hard=n_hard
        )
        return loss, accuracy, n_candidates, nce

    def _contrast_mixed(self, z_hat, own, generator):
        """Each pair against targets drawn for it alone; see `OwnNegatives`."""
        batch, rows, cols = own.shape[:3]
        draw = OwnNegatives(
            batch, rows * cols, self.n_candidates, self.same_image_fraction, generator, own.device
        )
        loss, accuracy, nce = contrast_drawn(
            z_hat.flatten(0, 2),
            own.flatten(0, 2),
            draw,
            draw.n_candidates,
            objective=self.objective,
        )
        return loss, accuracy, draw.n_candidates, nce

    def _contrast_groups(self, z_hat, own):
        """InfoNCE within groups of images; see `negative_images`."""
        batch, rows, cols, projection = own.shape
        size = min(self.negative_images, batch)
        n_groups = batch // size
        shape = (n_groups, size * rows * cols, projection)
        z_hat, own = (x[: n_groups * size].reshape(shape) for x in (z_hat, own))
        return self._contrast_within(z_hat, own)

    def _contrast_places(self, z_hat, own):
        """InfoNCE among the targets at one place of all images."""
        z_hat, own = (x.flatten(1, 2).transpose(0, 1) for x in (z_hat, own))
        return self._contrast_within(z_hat, own)  # (places, batch, projection)

    def _contrast_within(self, z_hat, targets):
        """InfoNCE of predictions and targets, (groups, n, projection), within each group."""
        loss, accuracy, nce = contrast_within(z_hat, targets, objective=self.objective)
        return loss, accuracy, targets.shape[1], nce
