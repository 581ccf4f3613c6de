"""A trained model as one plain module: images as they come in, pooled features out."""

import copy
from math import prod

import torch
from torch import nn

from .patches import PatchGrid
from .pooling import pool_images

__all__ = ["ImageFeatures"]


class ImageFeatures(nn.Module):
    """Images to features, for use without scikit-learn and for export.

    Parameters
    ----------
    model : CPCModel
        Copied without the heads of the loss.
    grid : PatchGrid
        Patches of the images.
    to_unit : callable
        Maps pixels to floats in [0, 1].
    n_channels : int
    channels_first : bool
        Whether an image is (channels, height, width) and not (height, width, channels).
    pooling : str, default="max"
        See `pool`.
    output : str, default="features"
        See `CPCModel.embed`.
    flip : bool, default=False
        See `pool_images`.
    """

    def __init__(
        self,
        model,
        grid,
        to_unit,
        n_channels,
        channels_first,
        pooling="max",
        output="features",
        flip=False,
    ):
        super().__init__()
        self.model = without_heads(model)
        self.grid = IndexedGrid(grid.height, grid.width, grid.patch_size, grid.patch_stride)
        self.to_unit = to_unit
        self.n_channels = n_channels
        self.channels_first = channels_first
        self.pooling = pooling
        self.output = output
        self.flip = flip
        self.eval()

    def forward(self, images):
        """Features of images.

        Parameters
        ----------
        images : Tensor of shape (batch, height, width, channels), (batch, height, width), \
                (batch, channels, height, width) or (batch, n_pixels)
            In the dtype and layout of the training images.

        Returns
        -------
        features : Tensor of shape (batch, n_features_out)

        Raises
        ------
        ValueError
            If the images are of another size or layout, which would be read as other images.
        """
        size = self.grid.height, self.grid.width
        self._check_shape(tuple(images.shape[1:]), size)
        if self.channels_first:
            images = images.reshape(-1, self.n_channels, *size)
        else:
            images = images.reshape(-1, *size, self.n_channels).permute(0, 3, 1, 2)
        return pool_images(self._embed, self.to_unit(images), self.pooling, self.flip)

    def _check_shape(self, shape, size):
        own = (self.n_channels, *size) if self.channels_first else (*size, self.n_channels)
        grey = [size, (1, *size), (*size, 1)] if self.n_channels == 1 else []
        known = list(dict.fromkeys([own, (prod(own),), *grey]))
        if shape not in known:
            raise ValueError(
                f"images of shape {shape} must be of shape {' or '.join(map(str, known))} each, as "
                "in fit; bring them to that, or ask for another image_size."
            )

    def _embed(self, pixels):
        return self.model.embed(pixels, self.grid, self.output).float()


class IndexedGrid(PatchGrid):
    """A grid that picks its patches by their pixels: two look-ups, which every exporter knows."""

    def extract(self, images):
        images = self.crop(images)
        for axis, (size, stride, n) in enumerate(
            zip(self.patch_size, self.patch_stride, self.shape, strict=True)
        ):
            pixels = torch.arange(size) + stride * torch.arange(n)[:, None]
            # The axis of rows is the third, and that of columns comes after rows and their pixels.
            images = images.index_select(2 + 2 * axis, pixels.flatten().to(images.device))
            images = images.unflatten(2 + 2 * axis, (n, size))
        return images.permute(0, 2, 4, 1, 3, 5)  # (batch, rows, cols, channels, height, width)


def without_heads(model):
    """A copy in eval mode that embeds, and has no weights that only the loss needs."""
    small = copy.copy(model)
    of_the_loss = ("targets", "W", "queues", "slow", "earlier")
    small._modules = model._modules | {name: nn.ModuleDict() for name in of_the_loss}
    small = copy.deepcopy(small)
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    # Training prefers the channels last, which not every exporter keeps.
    return small.eval().to(memory_format=torch.contiguous_format)
