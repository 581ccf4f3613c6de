"""The geometry of a grid of patches, and images -> patches."""

from dataclasses import dataclass
from math import ceil
from numbers import Integral

from .names import check_name

__all__ = ["PatchGrid"]

# Four directions as quarter turns: turning the grid by this many quarter turns
# makes the direction of prediction run from the first row to the last.
DIRECTIONS = {"down": 0, "right": 3, "up": 2, "left": 1}


@dataclass(frozen=True)
class PatchGrid:
    """A regular grid of overlapping patches on images of one size.

    The grid is centred: what a whole number of strides cannot cover is left over at the
    borders, half on either side (`margins`), always less than one stride on each axis.

    Parameters
    ----------
    height, width : int
        Size of the images in pixels, at least 1.
    patch_size : int, (int, int) or "auto", default="auto"
        Rows and columns of a patch, at most those of the image. "auto" gives about 7x7 patches
        with half a patch of overlap: the stride is an eighth of the shorter side and the patch
        is two strides; patches of one pixel where the side is shorter than 4. Sides shorter than
        8 pixels, as those of a flat row of numbers, are divided independently of the other side.
    patch_stride : int, (int, int) or "auto", default="auto"
        Distance of neighbouring patches, at least 1. "auto" is half of `patch_size`.

    Attributes
    ----------
    shape : (int, int)
        Number of rows and columns of patches.
    first_safe_step : (int, int)
        Smallest step k along rows and along columns at which the target patch shares no pixel
        with any patch that the context has seen: ceil(patch_size / patch_stride).
    margins : (int, int, int, int)
        Pixels that no patch covers: top, bottom, left, right.

    Raises
    ------
    ValueError
        If a size or stride is smaller than 1 or a patch is larger than the image.
    TypeError
        If a size or stride is not a whole number.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018, section 3.2 (7x7 grid, half a patch of overlap).

    Examples
    --------
    >>> from sklearn_cpc.nn import PatchGrid
    >>> grid = PatchGrid(32, 32)
    >>> grid.patch_size, grid.patch_stride, grid.shape, grid.first_safe_step
    ((8, 8), (4, 4), (7, 7), (2, 2))
    >>> PatchGrid(256, 256, 80, 36).first_safe_step
    (3, 3)
    >>> PatchGrid(30, 41, 8, 4).margins
    (1, 1, 0, 1)
    """

    height: int
    width: int
    patch_size: int | tuple[int, int] | str = "auto"
    patch_stride: int | tuple[int, int] | str = "auto"

    def __post_init__(self):
        image = (_whole("height", self.height), _whole("width", self.width))
        for name, value in zip(("height", "width"), image, strict=True):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1 pixel; pass larger images.")
        size = self.patch_size
        size = _auto_patch_size(*image) if _is_auto(size) else _pair("patch_size", size)
        if any(s > side for s, side in zip(size, image, strict=True)):
            raise ValueError(
                f"patch_size={_short(size)} must be at most the image's height and width, "
                f"{image[0]}x{image[1]}; pass a smaller patch_size."
            )
        stride = self.patch_stride
        if _is_auto(stride):
            stride = tuple(max(1, s // 2) for s in size)
        else:
            stride = _pair("patch_stride", stride)
        for name, value in (
            ("height", image[0]),
            ("width", image[1]),
            ("patch_size", size),
            ("patch_stride", stride),
        ):
            object.__setattr__(self, name, value)

    @property
    def shape(self):
        return tuple(
            (side - size) // stride + 1
            for side, size, stride in zip(
                (self.height, self.width), self.patch_size, self.patch_stride, strict=True
            )
        )

    @property
    def n_patches(self):
        rows, cols = self.shape
        return rows * cols

    @property
    def first_safe_step(self):
        return tuple(
            ceil(size / stride)
            for size, stride in zip(self.patch_size, self.patch_stride, strict=True)
        )

    @property
    def margins(self):
        free = [
            side - (n - 1) * stride - size
            for side, n, stride, size in zip(
                (self.height, self.width),
                self.shape,
                self.patch_stride,
                self.patch_size,
                strict=True,
            )
        ]
        return free[0] // 2, free[0] - free[0] // 2, free[1] // 2, free[1] - free[1] // 2

    def safe_steps(self, direction, max_steps=None):
        """Steps k that the grid has room for in a direction and that share no pixel.

        Parameters
        ----------
        direction : {"down", "up", "right", "left"}
            Direction of prediction.
        max_steps : int or None, default=None
            At most this many steps, the nearest ones. None keeps all.

        Returns
        -------
        steps : list of int
            Empty where the grid is too short for a safe step.
        """
        check_name("direction", direction, DIRECTIONS)
        axis = 0 if direction in ("down", "up") else 1
        steps = list(range(self.first_safe_step[axis], self.shape[axis]))
        return steps[:max_steps]

    def with_size(self, height, width):
        """The same patches and strides on images of another size."""
        return PatchGrid(height, width, self.patch_size, self.patch_stride)

    def with_stride(self, patch_stride):
        """The same patches at another stride."""
        return PatchGrid(self.height, self.width, self.patch_size, patch_stride)

    def crop(self, images):
        """The part of the images that the grid covers, (..., height, width) in and out."""
        if tuple(images.shape[-2:]) != (self.height, self.width):
            raise ValueError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels do not fit this grid of "
                f"{self.height}x{self.width}; use grid.with_size({images.shape[-2]}, "
                f"{images.shape[-1]})."
            )
        top, bottom, left, right = self.margins
        return images[..., top : self.height - bottom, left : self.width - right]

    def extract(self, images):
        """Cut images into patches.

        Parameters
        ----------
        images : Tensor of shape (batch, channels, height, width)
            Any dtype, on any device.

        Returns
        -------
        patches : Tensor of shape (batch, rows, cols, channels, patch_height, patch_width)
            A view of the images where memory allows it.

        Raises
        ------
        ValueError
            If the images are not of the grid's height and width.
        """
        (size_y, size_x), (stride_y, stride_x) = self.patch_size, self.patch_stride
        windows = self.crop(images).unfold(-2, size_y, stride_y).unfold(-2, size_x, stride_x)
        return windows.permute(0, 2, 3, 1, 4, 5)


def _is_auto(value):
    return isinstance(value, str) and value == "auto"


def _whole(name, value):
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} must be a whole number of pixels.")
    return int(value)


def _pair(name, value):
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name}={value!r} must be one number or a pair (rows, columns).")
    pair = tuple(_whole(name, v) for v in pair)
    if min(pair) < 1:
        raise ValueError(f"{name}={value!r} must be at least 1 pixel; pass a larger {name}.")
    return pair


def _short(pair):
    return pair[0] if pair[0] == pair[1] else pair


def _auto_patch_size(height, width):
    if min(height, width) < 8:
        return _auto_side(height), _auto_side(width)
    return (_auto_side(min(height, width)),) * 2


def _auto_side(side):
    # Two strides to a patch need three rows before any prediction is disjoint.
    return 2 * max(1, round(side / 8)) if side >= 4 else 1
