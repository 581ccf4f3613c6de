"""What is changed at random while training, and the settings of the papers."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from ..constants import constant
from ..names import check_name
from . import colour, geometry
from .autoaugment import PRIMITIVES, apply_primitives
from .rows import change_rows

__all__ = ["AUGMENTATIONS", "Augmentation"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is changed at random in images and in patches while training.

    Image steps treat a whole image alike; patch steps draw anew for every patch, so that what
    neighbouring patches share by accident, such as their colour, is of no use for the prediction.
    Steps are taken in the order in which they are listed; one at 0 is left out and draws nothing.

    Parameters
    ----------
    shift : float, default=0.125
        Images are moved by up to this fraction of their height and width, mirrored at the borders;
        `CPCModel` moves them by less than half a patch, lest a mirror image join two patches.
    flip : float, default=0.5
        Probability of a left-right flip. Set to 0 where sides have a meaning, as for letters.
    image_transform : callable or None, default=None
        Your own change of images, called last of the image steps as
        `image_transform(images, generator)`. Gives a tensor of the same shape and dtype, floats in
        [0, 1]. A function of a module pickles; a lambda or one of a notebook does not.
    jitter : float, default=0.125
        The content of a patch is moved by up to this fraction of its size, its border pixels
        repeated: never pixels from outside the patch.
    crop : float, default=0
        This fraction of a patch's height and width is cut away around a random window, which is
        put in the middle, its border pixels repeated.
    autoaugment : float, default=0
        Probability that a patch is changed by `n_primitives` different `primitives`.
    n_primitives : int, default=2
        Primitives per patch, one after the other.
    primitives : sequence of str or None, default=None
        Which of the sixteen primitives of AutoAugment to draw from. None: all but "SamplePairing",
        which lets the latent of a patch depend on another patch. If it is named, that is a patch at
        least a quarter of the batch away, hence of another image where there are four or more.
    elastic : float, default=0
        Probability of an elastic deformation: a smooth field of displacements with a standard
        deviation of 5 % of the patch, border pixels repeated.
    shear : float, default=0
        Probability of a shear along both axes by up to 0.2 pixels per pixel, border pixels
        repeated. Read together with the elastic deformation, in one interpolation.
    histogram : float, default=0
        Probability that each channel's values are mapped by a random rising curve.
    colour : float, default=0
        Probability that brightness (32/255 added), saturation (times 0.5 to 1.5), hue (0.2 turns)
        and contrast (times 0.5 to 1.5) are changed by up to so much. Their order makes no
        difference, as values are clipped once, after all four.
    brightness : float, default=0.2
        Largest change added to a patch; 1 is the whole range of pixel values.
    contrast : float, default=0.4
        A patch's differences from its mean are multiplied by 1 - contrast to 1 + contrast.
    channel : float, default=0.2
        Largest change added to single channels, drawn for each. Skipped for one channel.
    greyscale : float, default=0.25
        Probability that a patch loses its colours. Three channels only.
    channel_drop : float, default=0.25
        Probability that a patch keeps a third of its channels, at least one; the others are set to
        `fill`. Skipped for one channel.
    patch_transform : callable or None, default=None
        Your own change of patches, called last, as `patch_transform(patches, generator)`, under the
        rules of `image_transform`. Change each patch on its own: what a patch takes from another,
        the loss can take back.

    Raises
    ------
    ValueError
        If a number is out of its range, or a primitive is unknown.
    TypeError
        If a transform cannot be called.

    Notes
    -----
    Moves treat all channels alike. What colours are where there are not three channels:

    ================================ ============================ =============================
    step                             three channels               one or another number
    ================================ ============================ =============================
    AutoContrast, Equalize,          each channel on its own      each channel on its own
    histogram
    Invert, Solarize, Posterize,     every value alike            every value alike
    Brightness, Sharpness, Cutout
    Contrast, colour: contrast       about the mean luma          about the mean of all values
    Color, colour: saturation        away from or towards luma    from or towards the mean of the
                                                                  channels: nothing for one
    colour: hue                      Cb and Cr are turned         left out
    greyscale                        luma (ITU-R BT.601)          left out
    channel_drop                     two of three                 two thirds; none of one
    ================================ ============================ =============================

    `AUGMENTATIONS` has "none", "light", "full" (the defaults), and the papers' settings:

    "cpc-v1" is section 3.2 of van den Oord et al. 2018: crops of 256 of 300 pixels, here moves of
    up to 22/256 with mirrored borders; flips; 60 of the 64 pixels of each patch, padded back (with
    what is not said: here with the border's pixels, centred); images in greyscale. The last is
    here in training only: give `transform` grey images.

    "cpc-v2" is section 4.1 and the appendix of Hénaff et al. 2020: crops of 260 of 300 pixels,
    here moves of up to 20/260; two primitives of AutoAugment per patch; elastic deformation and
    shear with probability 0.2; colour histogram, 0.2; colour, 0.8; greyscale, 0.25; and colour
    dropping. Not said there, and chosen here: the flip of v1 stays; the two primitives differ and
    their magnitudes are drawn evenly from the ranges of Cubuk et al. 2019, Table 6, moves and
    cutouts as shares of their images of 331 pixels; shear is about the middle of the patch, and
    deformation, shear and histogram are drawn independently of each other; the strengths of
    these three; hue is turned in the plane of Cb and Cr, and values are clipped once after the four
    changes of colour; colour dropping comes last, for every patch as in Doersch et al. 2015, with
    the mean colour in place of their noise.

    References
    ----------
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, section 4.1 (patch-based augmentation, colour dropping); A. van den Oord et al.,
    2018, section 3.2 (spatial jitter of patches); E. Cubuk et al., "AutoAugment", CVPR 2019;
    P. Simard et al., ICDAR 2003 (elastic deformation); C. Szegedy et al., "Going Deeper with
    Convolutions", 2014 (colour; the numbers are those of the Inception training code);
    C. Doersch et al., "Unsupervised Visual Representation Learning by Context Prediction", 2015.

    Examples
    --------
    >>> import torch
    >>> from dataclasses import replace
    >>> from sklearn_cpc.nn import AUGMENTATIONS
    >>> two = ("Rotate", "Sharpness")
    >>> gentle = replace(AUGMENTATIONS["cpc-v2"], primitives=two, channel_drop=0)
    >>> gentle.patches(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """

    shift: float = 0.125
    flip: float = 0.5
    image_transform: Any = None
    jitter: float = 0.125
    crop: float = 0.0
    autoaugment: float = 0.0
    n_primitives: int = 2
    primitives: tuple | None = None
    elastic: float = 0.0
    shear: float = 0.0
    histogram: float = 0.0
    colour: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.4
    channel: float = 0.2
    greyscale: float = 0.25
    channel_drop: float = 0.25
    patch_transform: Any = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise ValueError(f"{field.name}={value!r} must be between 0 and 1.")
            if field.type is Any and not (value is None or callable(value)):
                raise TypeError(
                    f"{field.name}={value!r} must be callable or None; pass a function of a tensor "
                    "and a generator."
                )
        for name in self._names:
            check_name("primitives", name, PRIMITIVES)
        n_names = len(self._names)
        if self.n_primitives not in range(1, n_names + 1):
            raise ValueError(
                f"n_primitives={self.n_primitives!r} must be a whole number from 1 to {n_names}, "
                "the number of different primitives."
            )

    @property
    def _names(self):
        names = PRIMITIVES[:-1] if self.primitives is None else self.primitives
        return tuple(dict.fromkeys(names))

    def images(self, images, generator=None, max_shift=None):
        """Change whole images.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            Any dtype; uint8 stays uint8.
        generator : torch.Generator or None, default=None
            On the images' device.
        max_shift : (int, int) or None, default=None
            Most pixels that an image is moved down or up and sideways, whatever `shift` says.

        Returns
        -------
        changed : Tensor of the same shape and dtype

        Raises
        ------
        ValueError, TypeError
            If `image_transform` gives something else.
        """
        if self.shift or self.flip:
            images = self._moved(images, generator, max_shift)
        return _own_change("image_transform", self.image_transform, images, generator)

    def patches(self, patches, generator=None, fill=0.5):
        """Change patches, each on its own.

        Parameters
        ----------
        patches : Tensor of shape (n, channels, height, width)
            Floats in [0, 1].
        generator : torch.Generator or None, default=None
            On the patches' device.
        fill : float or Tensor of shape (channels,), default=0.5
            Value of dropped channels.

        Returns
        -------
        changed : Tensor of the same shape, in [0, 1]

        Raises
        ------
        ValueError, TypeError
            If `patch_transform` gives something else.
        """
        # bf16 has too few digits for pixels and their places.
        with torch.autocast(patches.device.type, enabled=False):
            # These steps copy, and those after them write.
            if not (self.jitter or self.crop or self.autoaugment == 1):
                patches = patches.clone(memory_format=torch.contiguous_format)
            patches = self._deformed(patches, generator)
            if self._keeps_few_channels(patches.shape[1]):
                patches = self._kept_channels_recoloured(patches, generator, fill)
            else:
                patches = self._recoloured(patches, generator)
                patches = self._with_colours_lost(patches, generator, fill)
            return _own_change("patch_transform", self.patch_transform, patches, generator)

    @property
    def changes_patches(self):
        """Whether `patches` does anything; without it, what patches have in common stays common."""
        return any(getattr(self, name) for name in PATCH_STEPS)

    def _moved(self, images, generator, max_shift):
        batch, _, height, width = images.shape
        limits = max_shift or (height, width)
        rows = geometry.shifted(batch, height, self.shift, images.device, generator, limits[0])
        cols = geometry.shifted(batch, width, self.shift, images.device, generator, limits[1])
        flipped = geometry.chance(batch, self.flip, images.device, generator)
        cols = torch.where(flipped[:, None], cols.flip(1), cols)
        return geometry.gather(images, geometry.mirror(rows, height), geometry.mirror(cols, width))

    def _deformed(self, patches, generator):
        if self.jitter:
            patches = self._jittered(patches, generator)
        if self.crop:
            patches = self._cropped(patches, generator)
        if self.autoaugment:
            patches = self._with_primitives(patches, generator)
        if self.elastic or self.shear:
            patches = self._bent(patches, generator)
        if self.histogram:
            patches = self._with_histograms_changed(patches, generator)
        return patches

    def _recoloured(self, patches, generator):
        if self.colour:
            settings = self._colour_settings(patches, generator)
            patches = colour.change_colour(patches, settings)
        if self.brightness or self.contrast or self.channel:
            patches = self._scaled(patches, generator)
        return patches

    def _with_colours_lost(self, patches, generator, fill):
        n_channels = patches.shape[1]
        if n_channels == 3 and self.greyscale:
            chosen = geometry.chance(len(patches), self.greyscale, patches.device, generator)
            patches = change_rows(patches, chosen.nonzero()[:, 0], _without_colours)
        if n_channels > 1 and self.channel_drop:
            patches = self._with_channels_dropped(patches, generator, fill)
        return patches

    def _jittered(self, patches, generator):
        n, _, height, width = patches.shape
        rows = geometry.shifted(n, height, self.jitter, patches.device, generator)
        cols = geometry.shifted(n, width, self.jitter, patches.device, generator)
        return geometry.gather(patches, rows.clamp(0, height - 1), cols.clamp(0, width - 1))

    def _cropped(self, patches, generator):
        n, _, height, width = patches.shape
        rows = geometry.cropped(n, height, self.crop, patches.device, generator)
        cols = geometry.cropped(n, width, self.crop, patches.device, generator)
        return geometry.gather(patches, rows, cols)

    def _with_primitives(self, patches, generator):
        chosen = geometry.chance(len(patches), self.autoaugment, patches.device, generator)
        if self.autoaugment == 1:
            return apply_primitives(patches, self._names, self.n_primitives, generator)
        chosen = chosen.nonzero()[:, 0]
        some = patches.index_select(0, chosen)
        some = apply_primitives(
            some, self._names, self.n_primitives, generator, among=(patches, chosen)
        )
        return patches.index_copy_(0, chosen, some)

    def _bent(self, patches, generator):
        n, _, height, width = patches.shape
        device = patches.device
        is_bent = geometry.chance(n, self.elastic, device, generator)
        is_sheared = geometry.chance(n, self.shear, device, generator)
        chosen = (is_bent | is_sheared).nonzero()[:, 0]
        knots = (min(side, geometry.KNOTS) for side in (height, width))
        noise = torch.randn(len(chosen), 2, *knots, device=device, generator=generator)
        noise *= is_bent[chosen, None, None, None]
        shears = 2 * torch.rand(len(chosen), 2, device=device, generator=generator) - 1
        shears = geometry.LARGEST_SHEAR * shears * is_sheared[chosen, None]

        def change(some, shears, noise):
            displacements = geometry.elastic_displacements(noise, height, width)
            return geometry.deform(some, shears, displacements)

        return change_rows(patches, chosen, change, shears, noise)

    def _with_histograms_changed(self, patches, generator):
        n, n_channels = patches.shape[:2]
        device = patches.device
        chosen = geometry.chance(n, self.histogram, device, generator).nonzero()[:, 0]
        shape = len(chosen), n_channels, colour.HISTOGRAM_PIECES
        noise = torch.randn(shape, device=device, generator=generator)
        curves = colour.histogram_curves(noise)
        return change_rows(patches, chosen, colour.change_histogram, curves)

    def _colour_settings(self, patches, generator):
        n, device = len(patches), patches.device
        chosen = geometry.chance(n, self.colour, device, generator)
        u = 2 * torch.rand(n, 4, device=device, generator=generator) - 1
        # No change of those that are not chosen: few enough not to be set apart.
        return u * constant(colour.LARGEST_CHANGES, u) * chosen[:, None]

    def _keeps_few_channels(self, n_channels):
        is_scaled = self.brightness or self.contrast or self.channel
        return n_channels > 1 and self.channel_drop == 1 and self.colour and not is_scaled

    def _kept_channels_recoloured(self, patches, generator, fill):
        """As `_recoloured` and `_with_colours_lost`, without what the dropped channels would be."""
        n, n_channels = patches.shape[:2]
        device = patches.device
        settings = self._colour_settings(patches, generator)
        is_grey = None
        if n_channels == 3 and self.greyscale:
            is_grey = geometry.chance(n, self.greyscale, device, generator)
        rank = self._channel_ranks(n, n_channels, device, generator)
        channels = torch.arange(n_channels, device=device).expand(n, -1)
        kept = torch.empty_like(rank).scatter_(1, rank, channels)[:, : -(-n_channels // 3)]

        pixels = patches.flatten(2)
        matrices, added = colour.colour_changes(patches, settings)
        of_kept = matrices.gather(1, kept[:, :, None].expand(-1, -1, n_channels))
        changed = colour.mixed(pixels, of_kept, added)  # (n, kept, pixels)
        if is_grey is not None:
            grey = is_grey.nonzero()[:, 0]
            coloured = colour.mixed(*(x.index_select(0, grey) for x in (pixels, matrices, added)))
            changed.index_copy_(0, grey, colour.grey(coloured))
        pixels.copy_(torch.as_tensor(fill, device=device, dtype=pixels.dtype).reshape(-1, 1))
        places = n_channels * torch.arange(n, device=device)[:, None] + kept
        pixels.flatten(0, 1).index_copy_(0, places.flatten(), changed.flatten(0, 1))
        return pixels.view(patches.shape)

    def _scaled(self, patches, generator):
        n, n_channels = patches.shape[:2]

        def draw(amount, *shape):
            u = torch.rand(*shape, 1, 1, device=patches.device, generator=generator)
            return amount * (2 * u - 1)

        scale = 1 + draw(self.contrast, n, 1)
        offset = draw(self.brightness, n, 1)
        if n_channels > 1:
            offset = offset + draw(self.channel, n, n_channels)
        mean = patches.mean((2, 3), keepdim=True)
        return ((patches - mean) * scale + mean + offset).clamp_(0, 1)

    def _channel_ranks(self, n, n_channels, device, generator):
        """(n, n_channels): of which the lowest third is kept; n_channels is dropped for sure."""
        rank = torch.rand(n, n_channels, device=device, generator=generator).argsort(1)
        is_dropping = geometry.chance(n, self.channel_drop, device, generator)[:, None]
        return rank * is_dropping

    def _with_channels_dropped(self, patches, generator, fill):
        n, n_channels = patches.shape[:2]
        rank = self._channel_ranks(n, n_channels, patches.device, generator)
        dropped = rank >= -(-n_channels // 3)
        fill = torch.as_tensor(fill, device=patches.device, dtype=patches.dtype)
        return torch.where(dropped[:, :, None, None], fill.reshape(-1, 1, 1), patches)


def _without_colours(patches):
    return colour.grey(patches).expand_as(patches)


def _own_change(name, transform, before, generator):
    """What a user's callable makes of a tensor, checked."""
    if transform is None:
        return before
    after = transform(before, generator)
    if not isinstance(after, torch.Tensor):
        raise TypeError(f"{name} gave {type(after).__name__}; it must give a tensor.")
    for what in ("shape", "dtype", "device"):
        given, wanted = getattr(after, what), getattr(before, what)
        if given != wanted:
            raise ValueError(
                f"{name} gave {what}={given}; it must be that of what it was given, {wanted}."
            )
    if after.is_floating_point() and not ((after >= 0) & (after <= 1)).all():
        raise ValueError(
            f"{name} gave values from {after.min():.4g} to {after.max():.4g}; they must be "
            "between 0 and 1: clamp them."
        )
    return after


# What changes each patch on its own, where it is not zero or None.
PATCH_STEPS = (
    "jitter",
    "crop",
    "autoaugment",
    "elastic",
    "shear",
    "histogram",
    "colour",
    "brightness",
    "contrast",
    "channel",
    "greyscale",
    "channel_drop",
    "patch_transform",
)
_OFF = {field.name: 0.0 for field in fields(Augmentation) if field.type is float}
_CPC_V1 = {"shift": 22 / 256, "flip": 0.5, "crop": 4 / 64, "greyscale": 1.0}
_CPC_V2 = {
    "shift": 20 / 260,
    "flip": 0.5,
    "autoaugment": 1.0,
    "elastic": 0.2,
    "shear": 0.2,
    "histogram": 0.2,
    "colour": 0.8,
    "greyscale": 0.25,
    "channel_drop": 1.0,
}

AUGMENTATIONS = {
    "none": Augmentation(**_OFF),
    "light": Augmentation(brightness=0.1, contrast=0.2, channel=0.1, greyscale=0, channel_drop=0),
    "full": Augmentation(),
    "cpc-v1": Augmentation(**_OFF | _CPC_V1),
    "cpc-v2": Augmentation(**_OFF | _CPC_V2),
}
