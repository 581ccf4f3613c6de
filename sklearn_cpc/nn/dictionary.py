"""An encoder that starts as a dictionary of patches."""

import torch
from torch import nn
from torch.nn import functional as F

from .layers import he_init_

__all__ = ["DictionaryEncoder"]

NOISE = 0.1  # of the second layer's start, in units of He's
MAX_PIXELS = 4096  # of a patch, whose whitening has the square of that
MAX_PATCHES = 100_000  # that the whitening is fitted to


class DictionaryEncoder(nn.Module):
    """Two wide, rectified layers on patches of normalised contrast and whitened pixels.

    With `whiten_` and `set_atoms_`, which `CPCTransformer` calls before training with the centres
    of a k-means over patches, the first layer starts as a dictionary of patches: strong features
    for small natural images within seconds. The second starts near the identity, so that nothing
    of that is lost, and learns to combine the atoms. Two matrix products, and no convolution.

    Parameters
    ----------
    n_channels : int
        Channels of the images.
    patch_size : (int, int)
        Rows and columns of a patch.
    n_components : int, default=1024
        Number of features.
    contrast_offset : float, default=0.02
        Added to the variance of a patch before its pixels, in units of the standard deviation of
        all training pixels, are divided by the root.

    Raises
    ------
    ValueError
        If a patch has more than 4,096 numbers.

    References
    ----------
    A. Coates, A. Ng, H. Lee, "An Analysis of Single-Layer Networks in Unsupervised Feature
    Learning", AISTATS 2011 (normalised, whitened patches and their k-means).

    Examples
    --------
    >>> import torch
    >>> from sklearn_cpc.nn import DictionaryEncoder
    >>> DictionaryEncoder(3, (8, 8), 16)(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, n_channels, patch_size, n_components=1024, *, contrast_offset=0.02):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.n_components = n_components
        self.contrast_offset = contrast_offset
        n_pixels = n_channels * self.patch_size[0] * self.patch_size[1]
        if n_pixels > MAX_PIXELS:
            raise ValueError(
                f"patch_size={self.patch_size} with {n_channels} channels makes {n_pixels} "
                f"numbers, and a dictionary is for at most {MAX_PIXELS}; pass a smaller "
                "patch_size, or encoder='conv'."
            )
        self.register_buffer("center", torch.zeros(n_pixels))
        self.register_buffer("whitening", torch.eye(n_pixels))
        self.atoms = nn.Linear(n_pixels, n_components)
        self.combine = nn.Linear(n_components, n_components)
        he_init_(self)
        with torch.no_grad():
            self.combine.weight.mul_(NOISE).add_(torch.eye(n_components))

    def forward(self, patches):
        codes = F.relu(self.atoms(self.whitened(patches)))
        return F.relu(self.combine(codes))

    def whitened(self, patches):
        """Patches as rows of normalised, whitened pixels: (n, n_pixels)."""
        # Small differences of large numbers, and not worth bf16.
        with torch.autocast(patches.device.type, enabled=False):
            return (self._normalised(patches.float()) - self.center) @ self.whitening

    def _normalised(self, patches):
        pixels = patches.flatten(1)
        if pixels.shape[1] == 1:
            return pixels  # a single number has no contrast
        pixels = pixels - pixels.mean(1, keepdim=True)
        variance = pixels.square().mean(1, keepdim=True)
        return pixels / (variance + self.contrast_offset).sqrt()

    @torch.no_grad()
    def whiten_(self, images, regularisation=0.1):
        """Fit the whitening, V (D + regularisation)^(-1/2) V^T, to patches from everywhere.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width)
            Standardised training images.
        regularisation : float, default=0.1
            Added to the variances D along the principal directions V of normalised patches.
        """
        windows = self._windows(images)
        n = windows.shape[:3].numel()
        chosen = torch.arange(0, n, -(-n // MAX_PATCHES), device=images.device)
        rows = self._normalised(_at(windows, chosen))
        self.center.copy_(rows.mean(0))
        rows = rows - self.center
        covariance = rows.T.double() @ rows.double() / len(rows)
        variances, directions = torch.linalg.eigh(covariance)
        scale = (variances.clamp_min(0) + regularisation).rsqrt()
        self.whitening.copy_(directions * scale @ directions.T)

    @torch.no_grad()
    def draw_patches(self, images, n, generator=None):
        """At most n whitened patches from random places of standardised images: (n, n_pixels)."""
        windows = self._windows(images)
        chosen = torch.randperm(windows.shape[:3].numel(), generator=generator)[:n]
        return self.whitened(_at(windows, chosen.to(images.device)))

    @torch.no_grad()
    def set_atoms_(self, atoms, rows, active=0.1):
        """Start the first layer as this dictionary; the rest of it keeps its random weights.

        Parameters
        ----------
        atoms : Tensor of shape (n_atoms, n_pixels)
            At most n_components whitened patches, of which the directions count.
        rows : Tensor of shape (n, n_pixels)
            Whitened patches. Weights and biases are such that the products with them have unit
            standard deviation, and that each feature is above zero for the share `active` of them.
        active : float, default=0.1
            Between 0 and 1.
        """
        atoms = F.normalize(atoms.to(self.atoms.weight), dim=1)
        products = rows @ atoms.T
        scale = products.std().clamp_min(torch.finfo(products.dtype).tiny)
        rank = max(1, round((1 - active) * len(rows)))
        thresholds = products.kthvalue(rank, dim=0).values
        self.atoms.weight[: len(atoms)] = atoms / scale
        self.atoms.bias[: len(atoms)] = -thresholds / scale

    def _windows(self, images):
        """A view of all patches; a copy would be as many times the images as a patch has pixels."""
        height, width = self.patch_size
        windows = images.unfold(2, height, 1).unfold(3, width, 1)
        return windows.permute(0, 2, 3, 1, 4, 5)  # (n, rows, cols, channels, height, width)


def _at(windows, places):
    """The patches at these places, counted image by image and row by row."""
    _, rows, cols = windows.shape[:3]
    return windows[places // (rows * cols), places // cols % rows, places % cols]
