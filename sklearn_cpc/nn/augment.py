"""Random changes of images and patches, batched, on the tensor's own device."""

from dataclasses import dataclass, fields

import torch

__all__ = ["AUGMENTATIONS", "Augmentation"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in images and in patches while training.

    Image steps treat a whole image alike; patch steps draw anew for every patch, so that what
    neighbouring patches share by accident, such as their colour, is of no use for the prediction.

    Parameters
    ----------
    shift : float, default=0.125
        Images are moved by up to this fraction of their height and width, mirrored at the borders;
        `CPCModel` moves them by less than half a patch, lest a mirror image join two patches.
    flip : float, default=0.5
        Probability of a left-right flip. Set to 0 where sides have a meaning, as for letters.
    jitter : float, default=0.125
        The content of a patch is moved by up to this fraction of its size, its border pixels
        repeated: never pixels from outside the patch.
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

    References
    ----------
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, section 4.1 (patch-based augmentation, colour dropping); A. van den Oord et al.,
    2018, section 3.2 (spatial jitter of patches).
    """

    shift: float = 0.125
    flip: float = 0.5
    jitter: float = 0.125
    brightness: float = 0.2
    contrast: float = 0.4
    channel: float = 0.2
    greyscale: float = 0.25
    channel_drop: float = 0.25

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ValueError(f"{field.name}={value!r} must be between 0 and 1.")

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
        """
        batch, _, height, width = images.shape
        if not (self.shift or self.flip):
            return images
        limits = max_shift or (height, width)
        rows = _shifted(batch, height, self.shift, images.device, generator, limits[0])
        cols = _shifted(batch, width, self.shift, images.device, generator, limits[1])
        flipped = _chance(batch, self.flip, images.device, generator)
        cols = torch.where(flipped[:, None], cols.flip(1), cols)
        return _gather(images, _mirror(rows, height), _mirror(cols, width))

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
        """
        if self.jitter:
            patches = self._jittered(patches, generator)
        patches = self._recoloured(patches, generator)
        n, n_channels = patches.shape[:2]
        if n_channels == 3 and self.greyscale:
            grey = torch.tensor(LUMA, device=patches.device, dtype=patches.dtype)
            grey = (patches * grey[:, None, None]).sum(1, keepdim=True)
            chosen = _chance(n, self.greyscale, patches.device, generator)
            patches = torch.where(chosen[:, None, None, None], grey, patches)
        if n_channels > 1 and self.channel_drop:
            patches = self._with_channels_dropped(patches, generator, fill)
        return patches

    def _jittered(self, patches, generator):
        n, _, height, width = patches.shape
        rows = _shifted(n, height, self.jitter, patches.device, generator)
        cols = _shifted(n, width, self.jitter, patches.device, generator)
        return _gather(patches, rows.clamp(0, height - 1), cols.clamp(0, width - 1))

    def _recoloured(self, patches, generator):
        if not (self.brightness or self.contrast or self.channel):
            return patches
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

    def _with_channels_dropped(self, patches, generator, fill):
        n, n_channels = patches.shape[:2]
        rank = torch.rand(n, n_channels, device=patches.device, generator=generator).argsort(1)
        dropped = rank >= -(-n_channels // 3)
        dropped &= _chance(n, self.channel_drop, patches.device, generator)[:, None]
        fill = torch.as_tensor(fill, device=patches.device, dtype=patches.dtype)
        return torch.where(dropped[:, :, None, None], fill.reshape(-1, 1, 1), patches)


def _chance(n, probability, device, generator):
    return torch.rand(n, device=device, generator=generator) < probability


def _shifted(n, side, amount, device, generator, limit=None):
    """Pixel indices of n axes of this length, each moved by a random whole number."""
    reach = min(round(amount * side), side if limit is None else limit)
    moves = torch.randint(-reach, reach + 1, (n, 1), device=device, generator=generator)
    return torch.arange(side, device=device) + moves


def _mirror(index, side):
    period = max(1, 2 * (side - 1))
    index = index.remainder(period)
    return torch.where(index < side, index, period - index)


def _gather(x, rows, cols):
    """x[i, :, rows[i], cols[i]] for all i in one indexing."""
    n, n_channels = x.shape[:2]
    which = torch.arange(n, device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(n_channels, device=x.device).view(1, -1, 1, 1)
    return x[which, channel, rows[:, None, :, None], cols[:, None, None, :]]


AUGMENTATIONS = {
    "none": Augmentation(**{field.name: 0.0 for field in fields(Augmentation)}),
    "light": Augmentation(brightness=0.1, contrast=0.2, channel=0.1, greyscale=0, channel_drop=0),
    "full": Augmentation(),
}
