"""Context networks g_ar: latents z -> context c, seeing rows at or above their own only."""

from torch import nn
from torch.nn import functional as F

from .custom import adopt_context
from .names import check_name
from .sequence_contexts import RowGRU, RowTransformer

__all__ = ["CONTEXTS", "GatedPixelCNN", "PixelCNN", "make_context"]


class _PixelCNNBlock(nn.Module):
    """1x1, ReLU, 1x3 same, one row of padding on top, 2x1 valid, ReLU, 1x1."""

    def __init__(self, latent_dim, width):
        super().__init__()
        self.squeeze = nn.Conv2d(latent_dim, width, 1)
        self.across = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(width, width, (2, 1))
        self.expand = nn.Conv2d(width, latent_dim, 1)

    def forward(self, z):
        h = self.across(F.relu(self.squeeze(z)))
        # Padding on top alone shifts: row i sees rows i - 1 and i, never i + 1.
        h = self.down(F.pad(h, (0, 0, 1, 0)))
        return z + self.expand(F.relu(h))


class PixelCNN(nn.Module):
    """The masked-convolution context of CPC v2, with shift padding in place of masks.

    Row i of the context sees rows i - depth to i, in full width up to `depth` columns away.

    Parameters
    ----------
    latent_dim : int
        Width of the latents in and of the context out.
    width : int, default=256
        Channels inside the residual blocks.
    depth : int, default=5
        Number of residual blocks.

    References
    ----------
    O. Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding",
    ICML 2020, appendix (masked convolution of the pseudo-code).
    """

    sees_rows_above_only = True

    def __init__(self, latent_dim, *, width=256, depth=5):
        super().__init__()
        self.blocks = nn.Sequential(*(_PixelCNNBlock(latent_dim, width) for _ in range(depth)))

    def forward(self, z):
        """Context of a grid of latents.

        Parameters
        ----------
        z : Tensor of shape (batch, rows, cols, latent)
            Any number of rows and columns; the first row is the one seen first.

        Returns
        -------
        c : Tensor of shape (batch, rows, cols, latent)
        """
        return F.relu(self.blocks(z.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class _GatedBlock(nn.Module):
    """2x3 convolution shifted down, tanh times sigmoid, 1x1, added."""

    def __init__(self, width):
        super().__init__()
        self.down = nn.Conv2d(width, 2 * width, (2, 3), padding=(0, 1))
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, h):
        # Padding on top alone shifts: row i sees rows i - 1 and i, never i + 1.
        value, gate = self.down(F.pad(h, (0, 0, 1, 0))).chunk(2, 1)
        return h + self.mix(value.tanh() * gate.sigmoid())


class GatedPixelCNN(nn.Module):
    """The vertical stack of the gated PixelCNN, which alone sees whole rows.

    Row i of the context sees rows i - depth to i, in full width up to `depth` columns away. The
    original sees the rows above a pixel only; here, the row itself is known, too.

    Parameters
    ----------
    latent_dim : int
        Width of the latents in and of the context out.
    width : int, default=256
        Channels of the stack.
    depth : int, default=5
        Number of gated layers.

    References
    ----------
    A. van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016,
    https://arxiv.org/abs/1606.05328, section 2.
    """

    sees_rows_above_only = True

    def __init__(self, latent_dim, *, width=256, depth=5):
        super().__init__()
        self.squeeze = nn.Conv2d(latent_dim, width, 1)
        self.blocks = nn.Sequential(*(_GatedBlock(width) for _ in range(depth)))
        self.expand = nn.Conv2d(width, latent_dim, 1)

    def forward(self, z):
        """Context of a grid of latents; see `PixelCNN.forward`."""
        h = self.blocks(self.squeeze(z.permute(0, 3, 1, 2)))
        return self.expand(F.relu(h)).permute(0, 2, 3, 1)


CONTEXTS = {
    "pixelcnn": PixelCNN,
    "gated-pixelcnn": GatedPixelCNN,
    "gru": RowGRU,
    "transformer": RowTransformer,
}


def make_context(context, latent_dim, *, shape=(5, 4), **settings):
    """Build a context network from its name, or take a user's own.

    Parameters
    ----------
    context : str, Module or callable
        A name in `CONTEXTS`, or what `adopt_context` takes.
    latent_dim : int
    shape : (int, int), default=(5, 4)
        Rows and columns of the grid that a user's own is checked on.
    **settings
        `width` and `depth` of a named network.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if not isinstance(context, str):
        return adopt_context(context, latent_dim, shape)
    check_name("context", context, CONTEXTS)
    return CONTEXTS[context](latent_dim, **settings)
