"""Context networks that read rows one after the other: recurrent, and by attention."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["RowGRU", "RowTransformer"]

HEAD_WIDTH = 32
LONGEST_PERIOD = 1000  # rows or columns, of the slowest wave of the position code


class _GRU(nn.GRU):
    """A GRU whose copies, too, have all weights in one piece of memory, as cuDNN wants them."""

    def __setstate__(self, state):
        super().__setstate__(state)
        self.flatten_parameters()


class RowGRU(nn.Module):
    """A GRU that goes down the rows, on rows that another one has read in both ways.

    A bidirectional GRU runs along each row, so that every place knows its whole row; GRUs then run
    from the first row down, one sequence for each column. c[i, j] thus sees all of the rows up
    to i. Runs in the precision of its weights.

    Parameters
    ----------
    latent_dim : int
        Width of the latents in and of the context out.
    width : int, default=256
        Width of the states.
    depth : int, default=1
        Number of layers that go down the rows.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018, section 2.2 (a GRU as context).
    """

    sees_rows_above_only = True

    def __init__(self, latent_dim, *, width=256, depth=1):
        super().__init__()
        self.across = _GRU(latent_dim, width, batch_first=True, bidirectional=True)
        self.down = _GRU(2 * width, width, num_layers=depth, batch_first=True)
        self.expand = nn.Linear(width, latent_dim)

    def forward(self, z):
        """Context of a grid of latents; see `PixelCNN.forward`."""
        batch, rows, cols, _ = z.shape
        # Not every device has a GRU in bfloat16.
        with torch.autocast(z.device.type, enabled=False):
            h, _ = self.across(z.to(self.expand.weight.dtype).flatten(0, 1))
            h = h.view(batch, rows, cols, -1).transpose(1, 2)  # (batch, cols, rows, 2 * width)
            h, _ = self.down(h.flatten(0, 1))
            c = self.expand(h).view(batch, cols, rows, -1)
        return c.transpose(1, 2)


class _AttentionBlock(nn.Module):
    """Attention, then two layers at each place, each on its own norm and added."""

    def __init__(self, width):
        super().__init__()
        self.n_heads = next(n for n in range(max(1, width // HEAD_WIDTH), 0, -1) if width % n == 0)
        self.attention_norm = nn.LayerNorm(width)
        # A bias of the keys would change no attention.
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h, mask):
        qkv = self.query_key_value(self.attention_norm(h)).unflatten(2, (3, self.n_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, places, width / heads) each
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + self.attended(a.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


class RowTransformer(nn.Module):
    """A transformer whose places attend to all places of their own row and of those above.

    Positions are told by waves of the row and of the column, as in the original; nothing is tied to
    a grid size.

    Parameters
    ----------
    latent_dim : int
        Width of the latents in and of the context out.
    width : int, default=256
        Width inside; one head for each 32 of it, where that divides it.
    depth : int, default=5
        Number of blocks.

    References
    ----------
    A. Vaswani et al., "Attention Is All You Need", 2017; R. Xiong et al., "On Layer Normalization
    in the Transformer Architecture", ICML 2020 (norms ahead of the layers).
    """

    sees_rows_above_only = True

    def __init__(self, latent_dim, *, width=256, depth=5):
        super().__init__()
        self.squeeze = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(_AttentionBlock(width) for _ in range(depth))
        self.expand = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))

    def forward(self, z):
        """Context of a grid of latents; see `PixelCNN.forward`."""
        rows, cols = z.shape[1:3]
        h = self.squeeze(z)
        h = (h + position_code(rows, cols, h.shape[-1], z.device)).flatten(1, 2)
        row = torch.arange(rows * cols, device=z.device) // cols
        mask = row[:, None] >= row  # (places that look, places that are seen)
        for block in self.blocks:
            h = block(h, mask)
        return self.expand(h).unflatten(1, (rows, cols))


def position_code(rows, cols, width, device=None):
    """Waves of the row and of the column: sines and cosines of falling frequency.

    Returns
    -------
    code : Tensor of shape (rows, cols, width)
        Sine of the row and of the column, cosine of the row and of the column, and so on.
    """
    n_waves = -(-width // 4)
    exponent = torch.arange(n_waves, device=device) / n_waves
    speed = LONGEST_PERIOD**-exponent
    down = (torch.arange(rows, device=device)[:, None] * speed)[:, None].expand(-1, cols, -1)
    across = (torch.arange(cols, device=device)[:, None] * speed).expand(rows, -1, -1)
    waves = [down.sin(), across.sin(), down.cos(), across.cos()]
    return torch.stack(waves, -1).flatten(2)[..., :width]
