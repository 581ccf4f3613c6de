"""Which candidates a prediction's own target is told from: the names, the draws, the queue."""

import copy

import torch
from torch import nn

from .names import check_name

__all__ = ["DRAWN", "NEGATIVES", "OwnNegatives", "SlowTargets", "TargetQueue", "choose_negatives"]

NEGATIVES = ("auto", "batch", "sampled", "groups", "image", "place", "mixed", "queue", "hard")
DRAWN = {"sampled", "mixed", "queue", "hard"}  # those of which something is drawn at random


def choose_negatives(negatives, n_candidates, negative_images):
    """The name behind "auto", and a check that its number is given.

    Parameters
    ----------
    negatives : str
        One of `NEGATIVES`. "auto" is "groups" where `negative_images` is a number, else "sampled"
        where `n_candidates` is one, else "batch".
    n_candidates, negative_images : int or None

    Returns
    -------
    negatives : str

    Raises
    ------
    ValueError
        If the name is unknown, or its number is None.
    """
    check_name("negatives", negatives, NEGATIVES)
    if negatives == "auto":
        if negative_images is not None:
            return "groups"
        return "batch" if n_candidates is None else "sampled"
    needed = {"groups": ("negative_images", negative_images)}
    needed |= dict.fromkeys(("sampled", "mixed"), ("n_candidates", n_candidates))
    name, value = needed.get(negatives, ("", 0))
    if value is None:
        raise ValueError(
            f"{name}=None must be a number with negatives={negatives!r}; pass one, or "
            "negatives='batch'."
        )
    return negatives


class OwnNegatives:
    """Negatives of each prediction's own, drawn without replacement among the step's targets.

    Target i is the positive of prediction i. All predictions read on in random permutations that
    they share, each from a random place: every target is as likely as any other, none comes twice,
    and the cost does not grow with the number of targets.

    Parameters
    ----------
    n_images, n_places : int
        Images, and targets of each.
    n_candidates : int
        Candidates wanted, the positive included.
    same_image : float or None
        Share of the negatives that are from the positive's image, rounded; where an image or the
        other images have too few targets, more are from the others. None: from anywhere.
    generator : torch.Generator or None
    device : torch.device

    Attributes
    ----------
    n_candidates : int
        Candidates there are.
    """

    def __init__(self, n_images, n_places, n_candidates, same_image, generator, device):
        n = min(n_candidates, n_images * n_places) - 1
        self.n_candidates = n + 1
        self.n_places = n_places
        self.generator = generator
        elsewhere = (n_images - 1) * n_places
        self.is_uniform = same_image is None
        if self.is_uniform:
            self.counts = [(n_images * n_places - 1, n)]
        else:
            n_same = min(round(same_image * n), n_places - 1)
            n_other = min(n - n_same, elsewhere)
            self.counts = [(n_places - 1, n - n_other), (elsewhere, n_other)]
        self.orders = [
            torch.randperm(size, generator=generator, device=device) for size, _ in self.counts
        ]

    def __call__(self, start, stop):
        """Candidates of predictions start to stop, (stop - start, n_candidates), positive last."""
        own = torch.arange(start, stop, device=self.orders[0].device)[:, None]
        drawn = [self._read(i, len(own)) for i in range(len(self.counts))]
        if self.is_uniform:
            (others,) = drawn
            return torch.cat([others + (others >= own), own], 1)
        same, others = drawn
        first = own - own % self.n_places  # of the image's targets
        same = first + same + (same >= own - first)
        others = others + self.n_places * (others >= first)
        return torch.cat([same, others, own], 1)

    def _read(self, which, n_rows):
        order, (size, n) = self.orders[which], self.counts[which]
        places = torch.randint(
            max(1, size), (n_rows, 1), generator=self.generator, device=order.device
        )
        return order[(places + torch.arange(n, device=order.device)) % max(1, size)]


class TargetQueue(nn.Module):
    """The targets of past batches, the oldest dropped first: negatives that cost no encoding.

    Parameters
    ----------
    size : int
        Targets kept.
    width : int
        Numbers of a target.

    References
    ----------
    K. He, H. Fan, Y. Wu, S. Xie, R. Girshick, "Momentum Contrast for Unsupervised Visual
    Representation Learning", CVPR 2020, section 3.2.
    """

    def __init__(self, size, width):
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, width))
        self.register_buffer("n_kept", torch.zeros((), dtype=torch.long))

    def targets(self):
        """The targets there are, the newest first, (n, width)."""
        return self.kept[: int(self.n_kept)]

    @torch.no_grad()
    def add(self, targets, generator=None):
        """Take in a batch's targets, at most a quarter of the queue, drawn at random."""
        n = min(len(targets), max(1, len(self.kept) // 4))
        chosen = torch.randperm(len(targets), generator=generator, device=targets.device)[:n]
        self.kept.copy_(torch.cat([targets[chosen].detach(), self.kept])[: len(self.kept)])
        self.n_kept.add_(n).clamp_(max=len(self.kept))

    def clear(self):
        """Forget all."""
        self.n_kept.zero_()


class SlowTargets(nn.Module):
    """A copy of what makes targets of patches, which follows the network slowly.

    Targets of an earlier network can be told from those of the present one by their age alone. All
    a prediction has to do then is to look new, and the network collapses. With a queue, therefore,
    every target, new or kept, is of a latent of this copy, which hardly changes while a queue
    lasts; no gradient goes through it, nor into the map from latents to targets.

    Parameters
    ----------
    encoder : Module
    latent : Module
        Features to latents.

    References
    ----------
    K. He, H. Fan, Y. Wu, S. Xie, R. Girshick, "Momentum Contrast for Unsupervised Visual
    Representation Learning", CVPR 2020, equation 2.
    """

    def __init__(self, encoder, latent):
        super().__init__()
        self.encoder, self.latent = copy.deepcopy((encoder, latent))
        self.register_buffer("has_followed", torch.zeros((), dtype=torch.bool))
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def follow(self, model, momentum):
        """theta_slow <- m theta_slow + (1 - m) theta; at first, simply theta."""
        weight = torch.where(self.has_followed, 1 - momentum, 1.0)  # nothing to wait for
        for name in ("encoder", "latent"):
            own, other = getattr(self, name), getattr(model, name)
            for mine, its in zip(own.parameters(), other.parameters(), strict=True):
                mine.lerp_(its, weight.to(mine.dtype))
            for mine, its in zip(own.buffers(), other.buffers(), strict=True):
                mine.copy_(its)
        self.has_followed.fill_(True)

    @torch.no_grad()
    def latents(self, patches, n_parts=1):
        """(..., channels, height, width), standardised -> (..., latent), some parts in turn."""
        parts = [part for part in patches.flatten(0, -4).tensor_split(n_parts) if len(part)]
        z = torch.cat([self.latent(self.encoder(part)) for part in parts])
        return z.view(*patches.shape[:-3], -1)
