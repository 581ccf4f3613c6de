"""The whole of CPC: images -> patches -> features -> z -> c -> loss."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .augment import AUGMENTATIONS
from .checks import check_encoder, check_images, check_settings, draws_at_random
from .context import make_context
from .greedy import GREEDY, encoder_stages, stage_widths
from .heads import ContrastiveHeads, CPCOutput, PredictionMaps, first_row_first
from .loss import OBJECTIVES
from .names import check_name
from .negatives import SlowTargets, choose_negatives
from .patches import DIRECTIONS

__all__ = ["OUTPUTS", "CPCModel", "plan_heads"]

OUTPUTS = ("features", "z", "c", "both")


def plan_heads(grid, directions, max_steps):
    """Steps that each direction predicts: those that are safe and for which the grid has room.

    Parameters
    ----------
    grid : PatchGrid
    directions : sequence of {"down", "up", "right", "left"}, or one of them
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
    directions = (directions,) if isinstance(directions, str) else directions
    for direction in directions:
        check_name("directions", direction, DIRECTIONS)
    plan = {d: grid.safe_steps(d, max_steps) for d in directions}
    return {d: steps for d, steps in plan.items() if steps}


class CPCModel(ContrastiveHeads):
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
    projection_dim : int or None, default=64
        Width of targets and predictions in the loss. None: the targets are z themselves, as in
        equation 3 of CPC v1.
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
        of the batch. With negatives="mixed": candidates of each pair.
    negative_images : int or None, default=None
        The batch is cut into groups of this many images, and each pair's candidates are all the
        targets of its group; images that fill no group are left out of the loss. Fewer images mean
        that more of the negatives are other places of the same image. None: `n_candidates` rules.
    negatives : str, default="auto"
        What a target is told from. "batch": all targets of the batch. "sampled":
        the targets of `n_candidates` pairs. "groups": see `negative_images`. "image":
        the other targets of its image. "mixed": `n_candidates` - 1 targets of each pair's own,
        drawn without replacement, a share `same_image_fraction` of them from its image.
        "queue": as "sampled" ("batch" without `n_candidates`), and in training the targets of
        earlier batches, too, all of latents of the copy `slow`; call `slow.follow(model, 0.99)`
        after every step (with `greedy` there is none). "hard": the share `hard_fraction` with the
        greatest scores of the candidates of "sampled" ("batch"). "place": the targets at the same
        place in the other images. "auto": "groups", "sampled" or "batch", whichever has its number.
    same_image_fraction : float or None, default=0.75
        For "mixed". None: all targets of the batch are as likely.
    queue_size : int, default=4096
        For "queue": targets kept for each direction.
    hard_fraction : float, default=0.25
        For "hard". While training, `hard_share` counts in its place, which is the same unless set:
        begin at 1 and end at `hard_fraction`, or a network that knows nothing collapses.
    objective : {"infonce", "bce"}, default="infonce"
        See `sklearn_cpc.nn.contrast`.
    greedy : {"joint", "sequential"} or None, default=None
        Greedy InfoMax: the encoder is cut into stages that no gradient passes between (see
        `encoder_stages`), each with heads of its own that predict its mean-pooled maps from
        themselves; there is no context network and no `latent_dim`. "joint": all stages learn from
        every batch. "sequential": only stage `trained_stage` learns in training, on the
        frozen ones before it.
    accumulate : int, default=1
        Parts in which the encoder goes through a batch in training, one after the other, once
        forward and once more in the backward pass: memory of a part, gradient of the whole
        batch, whatever the negatives, for a third more time.
    augmentation : Augmentation or None, default=None
        Applied in training only.

    Raises
    ------
    ValueError
        If a name is unknown, a number out of its range, or the encoder is one of this package for
        patches of another size than the grid's. From `forward`, `parts` and `embed`, if
        images are of other channels or of another size.
    TypeError
        If a number is no number, or images are no tensor of floats.

    References
    ----------
    S. Löwe, P. O'Connor, B. Veeling, "Putting An End to End-to-End: Gradient-Isolated Learning of
    Representations", NeurIPS 2019, https://arxiv.org/abs/1905.11786 (greedy).
    L. Gao, Y. Zhang, J. Han, J. Callan, "Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup", 2021 (accumulate, here by recomputation).

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
        negatives="auto",
        same_image_fraction=0.75,
        queue_size=4096,
        hard_fraction=0.25,
        objective="infonce",
        greedy=None,
        accumulate=1,
        augmentation=None,
    ):
        super().__init__()
        check_name("similarity", similarity, ("cosine", "dot"))
        check_name("objective", objective, OBJECTIVES)
        if greedy is not None:
            check_name("greedy", greedy, GREEDY)
        if not temperature > 0:
            raise ValueError(f"temperature={temperature!r} must be greater than 0.")
        check_settings(
            max_steps=max_steps,
            latent_dim=latent_dim,
            projection_dim=projection_dim,
            n_candidates=n_candidates,
            negative_images=negative_images,
            same_image_fraction=same_image_fraction,
            queue_size=queue_size,
            hard_fraction=hard_fraction,
            accumulate=accumulate,
        )
        check_encoder(encoder, grid)
        self.grid = grid
        self.encoder = encoder
        self.plan = plan_heads(grid, directions, max_steps)
        self.similarity = similarity
        self.temperature = temperature
        self.n_candidates = n_candidates
        self.negatives = choose_negatives(negatives, n_candidates, negative_images)
        self.negative_images = 1 if self.negatives == "image" else negative_images
        self.same_image_fraction = same_image_fraction
        self.hard_fraction = self.hard_share = hard_fraction
        self.objective = objective
        self.greedy = greedy
        self.trained_stage = 0 if greedy == "sequential" else None
        self.accumulate = accumulate
        self.augmentation = augmentation or AUGMENTATIONS["none"]
        self.register_buffer("pixel_mean", torch.full((n_channels,), 0.5))
        self.register_buffer("pixel_std", torch.full((n_channels,), 0.25))
        latent_dim = None if greedy else latent_dim
        width = latent_dim or encoder.n_components
        self.latent = nn.Linear(encoder.n_components, width) if latent_dim else nn.Identity()
        self.shared_context = shared_context
        settings = context_settings or {}
        self.contexts = nn.ModuleDict()
        for direction in () if greedy else self.plan:
            # A network of the user's own is checked for each shape of the turned grid.
            shape = grid.shape[::-1] if DIRECTIONS[direction] % 2 else grid.shape
            network = make_context(context, width, shape=shape, **settings)
            self.contexts["all" if shared_context else direction] = network
        queue_size = queue_size if self.negatives == "queue" else None
        maps = PredictionMaps(width, projection_dim, self.plan, queue_size)
        self.targets, self.W, self.queues = maps.targets, maps.W, maps.queues
        self.slow = None
        if self.negatives == "queue" and not greedy:
            self.slow = SlowTargets(encoder, self.latent)
        # Of a greedy encoder's stages but the last, which the model's own maps belong to.
        widths = stage_widths(encoder, n_channels, grid.patch_size)[:-1] if greedy else []
        self.earlier = nn.ModuleList(
            PredictionMaps(w, projection_dim, self.plan, queue_size) for w in widths
        )

    @property
    def n_stages(self):
        """Gradient-isolated parts of the encoder: 1 if it is not greedy."""
        return len(self.earlier) + 1

    @property
    def heads(self):
        """(direction, step) of each entry of a `CPCOutput`, in order.

        With a greedy encoder (direction, step, stage), the stages counted from 0.
        """
        heads = [(direction, k) for direction, steps in self.plan.items() for k in steps]
        if not self.greedy:
            return heads
        return [(*head, stage) for stage in range(self.n_stages) for head in heads]

    def context_of(self, direction):
        """The context network of a direction."""
        return self.contexts["all" if self.shared_context else direction]

    def standardise(self, pixels):
        """Pixels in [0, 1], (..., channels, height, width), to zero mean and unit variance."""
        shape = (-1, 1, 1)
        return (pixels - self.pixel_mean.view(shape)) / self.pixel_std.view(shape)

    def encode_patches(self, patches):
        """Features of patches with values in [0, 1], (..., channels, height, width)."""
        lead = patches.shape[:-3]
        features = self._through(self.encoder, self.standardise(patches).flatten(0, -4))
        return features.view(*lead, features.shape[-1])

    def _through(self, network, x):
        """The encoder or one of its stages on all patches; see `accumulate`."""
        if self.accumulate == 1 or not (self.training and torch.is_grad_enabled()):
            return network(x)
        parts = [part for part in x.tensor_split(self.accumulate) if len(part)]
        # What is drawn must be drawn again when the part is recomputed; looking it up takes time.
        is_random = draws_at_random(self.encoder)
        settings = {"use_reentrant": False, "preserve_rng_state": is_random}
        return torch.cat([checkpoint(network, part, **settings) for part in parts])

    def n_outputs(self, output):
        """Numbers that `embed` gives for a patch.

        Raises
        ------
        ValueError
            If the output is unknown, or the model has no contexts.
        """
        check_name("output", output, OUTPUTS)
        if output in ("c", "both") and not self.contexts:
            why = "greedy has no context network" if self.greedy else "no direction has room"
            raise ValueError(
                f"output={output!r} needs contexts, and there are none: {why}; pass "
                "output='features'."
            )
        z = self.latent.out_features if isinstance(self.latent, nn.Linear) else None
        z = z or self.encoder.n_components
        c = len(self.plan) * z
        return {"features": self.encoder.n_components, "z": z, "c": c, "both": z + c}[output]

    def embed(self, images, grid=None, output="features"):
        """Features of every patch of a grid, without augmentation.

        Overlapping work is shared where the encoder allows it exactly.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            Values in [0, 1].
        grid : PatchGrid or None, default=None
            A grid of the same patches on images of another size or at another stride.
        output : {"features", "z", "c", "both"}, default="features"
            The encoder's features; the latents; the contexts of all directions side by side, each
            of what comes before and at the patch, for which the grid must have the training
            stride; or latents and contexts.

        Returns
        -------
        features : Tensor of shape (batch, rows, cols, n_outputs(output))
        """
        grid = grid or self.grid
        check_name("output", output, OUTPUTS)
        check_images(images, len(self.pixel_mean))
        check_encoder(self.encoder, grid)
        features = self._embed(images, grid)
        if output == "features":
            return features
        z = self.latent(features)
        parts = [z] if output in ("z", "both") else []
        for direction in self.plan if output in ("c", "both") else ():
            c = self.context_of(direction)(first_row_first(z, direction))
            parts.append(torch.rot90(c, -DIRECTIONS[direction], (1, 2)))
        return torch.cat(parts, -1)

    def _embed(self, images, grid):
        can_share = getattr(self.encoder, "can_share", None)
        if can_share is not None and can_share(grid.patch_stride):
            dense = partial(self.encoder.forward_dense, stride=grid.patch_stride)
            return self._through(dense, self.standardise(grid.crop(images)))
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
        check_images(images, len(self.pixel_mean))
        if self.greedy:
            return CPCOutput.joined(list(self.parts(images, generator)))
        slow_z = None
        if self.training and (self.slow or self.augmentation.changes_patches):
            patches = self._patches(images, generator)
            features = self.encode_patches(patches)
            if self.slow:
                slow_z = self.slow.latents(self.standardise(patches), self.accumulate)
        else:
            features = self._embed(self._images(images, generator), self.grid)
        return self.predict(self.latent(features), generator, slow_z)

    def parts(self, images, generator=None):
        """The outputs of a batch whose losses share no parameter: one, or one for each stage.

        Called for one after the other, each `loss.backward()` before the next, they need the
        memory of one stage. Their losses add up to that of `forward`, in values and gradients.

        Parameters
        ----------
        images, generator
            As in `forward`.

        Yields
        ------
        output : CPCOutput
            All heads; those of other stages are 0.
        """
        if not self.greedy:
            yield self(images, generator)
            return
        check_images(images, len(self.pixel_mean))
        self._check_plan()
        patches = self._patches(images, generator)
        lead, x = patches.shape[:3], self.standardise(patches).flatten(0, 2)
        trained = self.trained_stage if self.training else None
        n_heads, n_per_stage = len(self.heads), len(self.heads) // self.n_stages
        for i, stage in enumerate(encoder_stages(self.encoder)):
            learns = trained in (None, i)
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                x = self._through(stage, x)
            if learns:
                z = x.mean((2, 3)) if x.ndim == 4 else x
                maps = self if i == len(self.earlier) else self.earlier[i]
                results = self._results(z.view(*lead, -1), None, maps, generator)
                share = 1 / self.n_stages if trained is None else 1.0
                yield CPCOutput.of(results, i * n_per_stage, n_heads, share)
            if i == trained:
                return
            x = x.detach()

    def _images(self, images, generator):
        """Images, changed as a whole in training."""
        if not self.training:
            return images
        # The mirror image of a border stays inside the outermost patch: in the next it would
        # be seen by the context of a target that holds the original.
        limits = [(size - 1) // 2 for size in self.grid.patch_size]
        return self.augmentation.images(images, generator, limits)

    def _patches(self, images, generator):
        """The grid's patches, augmented in training."""
        patches = self.grid.extract(self._images(images, generator))
        if self.training:
            flat = patches.flatten(0, 2)
            flat = self.augmentation.patches(flat, generator, self.pixel_mean)
            patches = flat.view(patches.shape)
        return patches

    def predict(self, z, generator=None, slow_z=None):
        """Loss of a batch of latents, (batch, rows, cols, latent), and those of `slow`."""
        self._check_plan()
        contexts = {direction: self.context_of(direction) for direction in self.plan}
        return CPCOutput.of(self._results(z, contexts, self, generator, slow_z))

    def _check_plan(self):
        if not self.plan:
            raise ValueError(
                f"{self.grid} has no safe step in any of the directions; pass a smaller patch_size."
            )
