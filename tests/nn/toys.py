"""Small models, so that every test takes milliseconds."""

import torch

from sklearn_cpc.nn import ConvEncoder, CPCModel, PatchGrid

FOUR = ("down", "up", "right", "left")


def small_model(grid, n_channels=1, *, seed=0, n_components=12, **settings):
    """A narrow CPCModel with random biases, so that no term is zero by initialisation."""
    torch.manual_seed(seed)
    settings = {
        "latent_dim": 6,
        "projection_dim": 5,
        "context_settings": {"width": 8, "depth": 2},
        **settings,
    }
    encoder = ConvEncoder(n_channels, grid.patch_size, n_components, width=4)
    model = CPCModel(grid, encoder, n_channels, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model


def asymmetric_grid():
    """4 x 6 patches, so that rows and columns cannot be exchanged unnoticed."""
    return PatchGrid(10, 14, 4, 2)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
