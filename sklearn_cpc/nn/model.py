"""The whole of CPC: images -> patches -> features -> z -> c -> loss."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .augment import AUGMENTATIONS
from .context import make_context
from .encoders import check_name
from .loss import info_nce
from .patches import DIRECTIONS

__all__ = ["CPCModel", "CPCOutput", "first_row_first", "plan_heads"]


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


def plan_heads(grid, directions, max_steps):
    """Steps that each direction predicts: those that are safe and for which the grid has room.

    Parameters
    ----------
    grid : PatchGrid
    directions : sequence of {"down", "up", "right", "left"}
    max_steps : int or None
        Steps per direction, counted from the first safe one.

    Returns
    -------
    plan : dict of direction -> list of int
        Without the directions that have no safe step.

    Raises
    ------
    ValueError
        If a direction is unknown.
    """
    for direction in directions:
        check_name("directions", direction, DIRECTIONS)
    plan = {d: grid.safe_steps(d, max_steps) for d in directions}
    return {d: steps for d, steps in plan.items() if steps}


@dataclass
class CPCOutput:
    """Loss of a batch and what it is made of, one entry per head (a direction and a step).

    Attributes
    ----------
    loss : Tensor, scalar
        Mean over the heads, in nats, with gradient.
    losses, accuracies, bounds : Tensor of shape (n_heads,)
        InfoNCE in nats; share of positives ranked first; the lower bound
        log N - L_N on the mutual information of context and target in nats (van den Oord et al.
        2018, appendix).
    n_candidates : Tensor of shape (n_heads,)
        N, the positive included.
    """

    loss: torch.Tensor
    losses: torch.Tensor
    accuracies: torch.Tensor
    bounds: torch.Tensor
    n_candidates: torch.Tensor


class CPCModel(nn.Module):
    """Contrastive Predictive Coding of images as a module: images in, loss out.

    Parameters
    ----------
    grid : PatchGrid
        Geometry of the training images.
    encoder : Module
        Patches (n, channels, height, width) -> features (n, encoder.n_components).
    n_channels : int
        Channels of the images.
    directions : sequence of {"down", "up", "right", "left"}, default=all four
        Directions of prediction, each with its own context network and heads. Those without
        room for a safe step are left out.
    max_steps : int or None, default=3
        Steps predicted per direction, from the first safe one on. None: all.
    latent_dim : int or None, default=256
        Width of z, a linear map of the features. None: z are the features.
    projection_dim : int, default=64
        Width of targets and predictions in the loss.
    context : str, Module or callable, default="pixelcnn"
        Name of the context network, or one of the user's own, see `adopt_context`.
    context_settings : dict or None, default=None
        Keywords of a named context network, such as width and depth.
    shared_context : bool, default=False
        One context network for all directions instead of one for each.
    similarity : {"cosine", "dot"}, default="cosine"
        Score of a prediction and a target.
    temperature : float, default=0.1
        Divides the scores. ("dot" with 10 is the factor 0.1 of CPC v2.)
    n_candidates : int or None, default=None
        Pairs of context and target that enter the loss per head and batch, drawn anew at random;
        the targets of these pairs are the candidates. None: every pair, against all targets
        of the batch.
    negative_images : int or None, default=None
        The batch is cut into groups of this many images, and each pair's candidates are all the
        targets of its group; images that fill no group are left out of the loss. Fewer images mean
        that more of the negatives are other places of the same image. None: `n_candidates` rules.
    augmentation : Augmentation or None, default=None
        Applied in training only.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cpc.nn import CPCModel, ConvEncoder, PatchGrid
    >>> grid = PatchGrid(16, 16)
    >>> model = CPCModel(grid, ConvEncoder(1, grid.patch_size, 32), 1, latent_dim=16)
    >>> output = model(torch.rand(8, 1, 16, 16))
    >>> output.losses.shape  # four directions, three steps
    torch.Size([12])
    """

    def __init__(
        self,
        grid,
        encoder,
        n_channels,
        *,
        directions=("down", "up", "right", "left"),
        max_steps=3,
        latent_dim=256,
        projection_dim=64,
        context="pixelcnn",
        context_settings=None,
        shared_context=False,
        similarity="cosine",
        temperature=0.1,
        n_candidates=None,
        negative_images=None,
        augmentation=None,
    ):
        super().__init__()
        check_name("similarity", similarity, ("cosine", "dot"))
        self.grid = grid
        self.encoder = encoder
        self.plan = plan_heads(grid, directions, max_steps)
        self.similarity = similarity
        self.temperature = temperature
        self.n_candidates = n_candidates
        self.negative_images = negative_images
        self.augmentation = augmentation or AUGMENTATIONS["none"]
        self.register_buffer("pixel_mean", torch.full((n_channels,), 0.5))
        self.register_buffer("pixel_std", torch.full((n_channels,), 0.25))
        width = latent_dim or encoder.n_components
        self.latent = nn.Linear(encoder.n_components, width) if latent_dim else nn.Identity()
        self.shared_context = shared_context
        settings = context_settings or {}
        self.contexts = nn.ModuleDict()
        for direction in self.plan:
            # A network of the user's own is checked for each shape of the turned grid.
            shape = grid.shape[::-1] if DIRECTIONS[direction] % 2 else grid.shape
            network = make_context(context, width, shape=shape, **settings)
            self.contexts["all" if shared_context else direction] = network
        self.targets = nn.ModuleDict(
            {d: nn.Linear(width, projection_dim, bias=False) for d in self.plan}
        )
        # W[direction][i] is W_k of the i-th step of the direction's plan.
        self.W = nn.ModuleDict(
            {
                d: nn.ModuleList(nn.Linear(width, projection_dim, bias=False) for _ in steps)
                for d, steps in self.plan.items()
            }
        )

    @property
    def heads(self):
        """(direction, step) of each entry of a `CPCOutput`, in order."""
        return [(direction, k) for direction, steps in self.plan.items() for k in steps]

    def standardise(self, pixels):
        """Pixels in [0, 1], (..., channels, height, width), to zero mean and unit variance."""
        shape = (-1, 1, 1)
        return (pixels - self.pixel_mean.view(shape)) / self.pixel_std.view(shape)

    def encode_patches(self, patches):
        """Features of patches with values in [0, 1], (..., channels, height, width)."""
        lead = patches.shape[:-3]
        features = self.encoder(self.standardise(patches).flatten(0, -4))
        return features.view(*lead, features.shape[-1])

    def embed(self, images, grid=None):
        """Features of every patch of a grid, without augmentation.

        Overlapping work is shared where the encoder allows it exactly.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            Values in [0, 1].
        grid : PatchGrid or None, default=None
            A grid of the same patches on images of another size or at another stride.

        Returns
        -------
        features : Tensor of shape (batch, rows, cols, n_components)
        """
        grid = grid or self.grid
        can_share = getattr(self.encoder, "can_share", None)
        if can_share is not None and can_share(grid.patch_stride):
            images = self.standardise(grid.crop(images))
            return self.encoder.forward_dense(images, grid.patch_stride)
        return self.encode_patches(grid.extract(images))

    def forward(self, images, generator=None):
        """Loss of a batch of images.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            Values in [0, 1].
        generator : torch.Generator or None, default=None
            On the images' device; draws the augmentation and the candidates.

        Returns
        -------
        output : CPCOutput
        """
        if self.training:
            # The mirror image of a border stays inside the outermost patch: in the next it would
            # be seen by the context of a target that holds the original.
            limits = [(size - 1) // 2 for size in self.grid.patch_size]
            images = self.augmentation.images(images, generator, limits)
        patches = self.grid.extract(images)
        if self.training:
            flat = patches.flatten(0, 2)
            flat = self.augmentation.patches(flat, generator, self.pixel_mean)
            patches = flat.view(patches.shape)
        z = self.latent(self.encode_patches(patches))  # (batch, rows, cols, latent)
        return self.predict(z, generator)

    def predict(self, z, generator=None):
        """Loss of a batch of latents, (batch, rows, cols, latent); see `forward`."""
        if not self.plan:
            raise ValueError(
                f"{self.grid} has no safe step in any of the directions; pass a smaller patch_size."
            )
        results = []
        for direction, steps in self.plan.items():
            turned = first_row_first(z, direction)
            c = self.contexts["all" if self.shared_context else direction](turned)
            for W_k, k in zip(self.W[direction], steps, strict=True):
                heads = W_k, self.targets[direction]
                if self.negative_images is None:
                    pairs = self._pairs(turned, c, k, generator)
                    results.append(self._contrast(*pairs, *heads))
                else:
                    results.append(self._contrast_groups(turned, c, k, *heads))
        losses, accuracies, n_candidates = zip(*results, strict=True)
        losses, accuracies = torch.stack(losses), torch.stack(accuracies)
        n_candidates = torch.tensor(n_candidates, dtype=torch.float32, device=losses.device)
        bounds = n_candidates.log() - losses.detach()
        return CPCOutput(losses.mean(), losses.detach(), accuracies, bounds, n_candidates)

    def _pairs(self, z, c, k, generator):
        """Contexts, candidates, and the candidate that is each context's own target k rows on."""
        batch, rows, cols, latent = z.shape
        contexts = c[:, : rows - k].reshape(-1, latent)
        n_pairs = len(contexts)
        if self.n_candidates is None:
            index = torch.arange(batch * rows * cols, device=z.device).view(batch, rows, cols)
            return contexts, z.reshape(-1, latent), index[:, k:].reshape(-1)
        own = z[:, k:].reshape(-1, latent)
        if self.n_candidates < n_pairs:
            chosen = torch.randperm(n_pairs, generator=generator, device=z.device)
            chosen = chosen[: self.n_candidates]
            contexts, own = contexts[chosen], own[chosen]
        return contexts, own, torch.arange(len(own), device=z.device)

    def _scored(self, contexts, candidates, W_k, target_map):
        """Predictions, divided by the temperature, and targets, whose products are the scores."""
        z_hat, targets = W_k(contexts).float(), target_map(candidates).float()
        if self.similarity == "cosine":
            z_hat, targets = F.normalize(z_hat, dim=-1), F.normalize(targets, dim=-1)
        return z_hat / self.temperature, targets

    def _contrast(self, contexts, candidates, positives, W_k, target_map):
        z_hat, targets = self._scored(contexts, candidates, W_k, target_map)
        loss, accuracy = info_nce(z_hat, targets, positives)
        return loss, accuracy, len(candidates)

    def _contrast_groups(self, z, c, k, W_k, target_map):
        """InfoNCE within groups of images; see `negative_images`."""
        batch, rows, cols, latent = z.shape
        size = min(self.negative_images, batch)
        n_groups = batch // size
        n_candidates = size * (rows - k) * cols
        shape = (n_groups, n_candidates, latent)
        contexts = c[: n_groups * size, : rows - k].reshape(shape)
        own = z[: n_groups * size, k:].reshape(shape)
        z_hat, targets = self._scored(contexts, own, W_k, target_map)
        with torch.autocast(z_hat.device.type, enabled=False):
            logits = z_hat @ targets.transpose(1, 2)  # (groups, predictions, candidates)
        positives = torch.arange(n_candidates, device=z.device).expand(n_groups, -1)
        loss = F.cross_entropy(logits.flatten(0, 1), positives.flatten())
        accuracy = (logits.detach().argmax(2) == positives).float().mean()
        return loss, accuracy, n_candidates
