"""Predictions, their candidates and the loss of every head (a direction and a step)."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .loss import LOGITS_BUDGET, contrast, contrast_drawn, info_nce, n_hardest
from .negatives import OwnNegatives, TargetQueue
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
    return torch.rot90(grid, DIRECTIONS[direction], (1, 2))


def _as_it_is(x):
    return x


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
        n_candidates = torch.tensor(n_candidates, dtype=torch.float32, device=losses.device)
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


class ContrastiveHeads(nn.Module):
    """What `CPCModel` does with latents; its settings are the model's."""

    # In training by several processes: a callable that brings the rows of all of them together.
    gather = None

    def _results(self, z, contexts, maps, generator):
        """(loss, accuracy, N, InfoNCE) of each head; without contexts z predicts itself."""
        gather = self.gather if self.gather and self.training else _as_it_is
        everyones = gather(z)
        results = []
        for direction, steps in self.plan.items():
            turned = c = first_row_first(everyones, direction)
            if contexts is not None:
                c = gather(contexts[direction](first_row_first(z, direction)))
            target_map = maps.targets[direction]
            queue = maps.queues[direction] if self.negatives == "queue" and self.training else None
            for W_k, k in zip(maps.W[direction], steps, strict=True):
                results.append(self._head(turned, c, k, W_k, target_map, queue, generator))
            if queue is not None:
                queue.add(self._projected(turned.flatten(0, 2), target_map), generator)
        return results

    def _head(self, z, c, k, W_k, target_map, queue, generator):
        if self.negatives in ("groups", "image"):
            return self._contrast_groups(z, c, k, W_k, target_map)
        if self.negatives == "place":
            return self._contrast_places(z, c, k, W_k, target_map)
        if self.negatives == "mixed":
            return self._contrast_mixed(z, c, k, W_k, target_map, generator)
        stored = () if queue is None else (queue.targets(),)
        pairs = self._pairs(z, c, k, generator)
        return self._contrast(*pairs, W_k, target_map, *stored)

    def _pairs(self, z, c, k, generator):
        """Contexts, candidates, and the candidate that is each context's own target k rows on."""
        batch, rows, cols, latent = z.shape
        contexts = c[:, : rows - k].reshape(-1, latent)
        n_pairs = len(contexts)
        if self.n_candidates is None or self.negatives == "batch":
            index = torch.arange(batch * rows * cols, device=z.device).view(batch, rows, cols)
            return contexts, z.reshape(-1, latent), index[:, k:].reshape(-1)
        own = z[:, k:].reshape(-1, latent)
        if self.n_candidates < n_pairs:
            chosen = torch.randperm(n_pairs, generator=generator, device=z.device)
            chosen = chosen[: self.n_candidates]
            contexts, own = contexts[chosen], own[chosen]
        return contexts, own, torch.arange(len(own), device=z.device)

    def _projected(self, candidates, target_map):
        targets = target_map(candidates).float()
        return F.normalize(targets, dim=-1) if self.similarity == "cosine" else targets

    def _scored(self, contexts, candidates, W_k, target_map):
        """Predictions, divided by the temperature, and targets, whose products are the scores."""
        z_hat = W_k(contexts).float()
        if self.similarity == "cosine":
            z_hat = F.normalize(z_hat, dim=-1)
        return z_hat / self.temperature, self._projected(candidates, target_map)

    def _contrast(self, contexts, candidates, positives, W_k, target_map, stored=None):
        """Against candidates that all pairs share, and the targets of earlier batches."""
        z_hat, targets = self._scored(contexts, candidates, W_k, target_map)
        if stored is not None:
            targets = torch.cat([targets, stored])
        n_candidates = len(targets)
        if self.negatives != "hard" and self.objective == "infonce":
            loss, accuracy = info_nce(z_hat, targets, positives)
            return loss, accuracy, n_candidates, loss
        n_hard = None
        if self.negatives == "hard":
            n_hard = n_hardest(self.hard_fraction, n_candidates)
            n_candidates = min(n_hard + 1, n_candidates)
        loss, accuracy, nce = contrast(
            z_hat, targets, positives, objective=self.objective, n_hard=n_hard
        )
        return loss, accuracy, n_candidates, nce

    def _contrast_mixed(self, z, c, k, W_k, target_map, generator):
        """Each pair against targets drawn for it alone; see `OwnNegatives`."""
        batch, rows, cols, latent = z.shape
        contexts = c[:, : rows - k].reshape(-1, latent)
        own = z[:, k:].reshape(-1, latent)
        z_hat, targets = self._scored(contexts, own, W_k, target_map)
        draw = OwnNegatives(
            batch,
            (rows - k) * cols,
            self.n_candidates,
            self.same_image_fraction,
            generator,
            z.device,
        )
        loss, accuracy, nce = contrast_drawn(
            z_hat, targets, draw, draw.n_candidates, objective=self.objective
        )
        return loss, accuracy, draw.n_candidates, nce

    def _contrast_groups(self, z, c, k, W_k, target_map):
        """InfoNCE within groups of images; see `negative_images`."""
        batch, rows, cols, latent = z.shape
        size = min(self.negative_images, batch)
        n_groups = batch // size
        n_candidates = size * (rows - k) * cols
        shape = (n_groups, n_candidates, latent)
        contexts = c[: n_groups * size, : rows - k].reshape(shape)
        own = z[: n_groups * size, k:].reshape(shape)
        return self._contrast_within(contexts, own, W_k, target_map)

    def _contrast_places(self, z, c, k, W_k, target_map):
        """InfoNCE among the targets at one place of all images."""
        rows = z.shape[1]
        contexts = c[:, : rows - k].flatten(1, 2).transpose(0, 1)  # (places, batch, latent)
        own = z[:, k:].flatten(1, 2).transpose(0, 1)
        return self._contrast_within(contexts, own, W_k, target_map)

    def _contrast_within(self, contexts, own, W_k, target_map):
        """InfoNCE of contexts and targets, (groups, n, latent), within each group."""
        n_groups, n_candidates = own.shape[:2]
        z_hat, targets = self._scored(contexts, own, W_k, target_map)
        if self.objective != "infonce" or n_groups * n_candidates**2 > LOGITS_BUDGET:
            positives = torch.arange(n_candidates, device=own.device)
            groups = [
                contrast(p, t, positives, objective=self.objective)
                for p, t in zip(z_hat, targets, strict=True)
            ]
            loss, accuracy, nce = (torch.stack(part).mean() for part in zip(*groups, strict=True))
            return loss, accuracy, n_candidates, nce
        with torch.autocast(z_hat.device.type, enabled=False):
            logits = z_hat @ targets.transpose(1, 2)  # (groups, predictions, candidates)
        positives = torch.arange(n_candidates, device=own.device).expand(n_groups, -1)
        loss = F.cross_entropy(logits.flatten(0, 1), positives.flatten())
        accuracy = (logits.detach().argmax(2) == positives).float().mean()
        return loss, accuracy, n_candidates, loss
