"""
What does the augmentation do to a patch?
=========================================

CPC predicts patches from other patches, and whatever neighbours share by accident, such as a
tint, makes that too easy. Each patch is therefore changed on its own. These pictures show every
step of the two papers by itself and all of them together, on colour digits and on digits in grey.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklearn_cpc.datasets import load_colour_digits
from sklearn_cpc.nn import AUGMENTATIONS, PatchGrid
from sklearn_cpc.nn.augment import PRIMITIVES

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
parser.add_argument("--size", type=int, default=96, help="side of the images, in pixels")
parser.add_argument("--patches", type=int, default=10, help="patches per row")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

# %%
# Patches
# -------
# Of each image the patch, two thirds of a side long, that shows most of its digit.
data = load_colour_digits(
    n_train=max(50, options.patches), n_test=10, image_size=options.size, noise=0.15
)
images = torch.from_numpy(data.X_train[: options.patches]).permute(0, 3, 1, 2) / 255
grid = PatchGrid(options.size, options.size, 2 * options.size // 3, options.size // 6)
patches = grid.extract(images).flatten(1, 2)  # (n, patches, 3, height, width)
# Paper covers most of an image: ink is what differs from the median colour.
paper = images.flatten(2).median(2).values[:, None, :, None, None]
most_ink = (patches - paper).abs().sum((2, 3, 4)).argmax(1)
colour = patches[torch.arange(len(patches)), most_ink]  # (n, 3, height, width)

# %%
# Steps
# -----
# A step is a setting of `Augmentation`; here each is certain to be taken, for every patch.
none = AUGMENTATIONS["none"]
grey = replace(none, greyscale=1).patches(colour)[:, :1]
steps = {
    "60 of 64 pixels (v1)": replace(none, crop=4 / 64),
    "two primitives": replace(none, autoaugment=1),
    "elastic": replace(none, elastic=1),
    "shear": replace(none, shear=1),
    "histogram": replace(none, histogram=1),
    "colour": replace(none, colour=1),
    "greyscale": replace(none, greyscale=1),
    "colour dropping": replace(none, channel_drop=1),
    "all of CPC v1": AUGMENTATIONS["cpc-v1"],
    "all of CPC v2": AUGMENTATIONS["cpc-v2"],
    "full (the default)": AUGMENTATIONS["full"],
}
primitives = {
    name: replace(none, autoaugment=1, n_primitives=1, primitives=(name,)) for name in PRIMITIVES
}


def page(title, settings, patches, path):
    """One row of patches as they are, and one for each setting."""
    fill = patches.mean((0, 2, 3))
    rows = {"as they are": patches}
    for name, setting in settings.items():
        rows[name] = setting.patches(patches, torch.Generator().manual_seed(0), fill)
    n = len(patches)
    figure, axes = plt.subplots(
        len(rows),
        n,
        figsize=(1.9 + 0.72 * n, 0.5 + 0.75 * len(rows)),
        gridspec_kw={"wspace": 0.06, "hspace": 0.06},
        squeeze=False,
    )
    for row, (name, changed) in zip(axes, rows.items(), strict=True):
        for cell, patch in zip(row, changed, strict=True):
            cell.imshow(np.squeeze(patch.permute(1, 2, 0).numpy()), cmap="gray", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title, y=0.995, va="top")
    figure.subplots_adjust(1.75 / (1.9 + 0.72 * n), 0.01, 0.99, 1 - 0.4 / (0.5 + 0.75 * len(rows)))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path.resolve())


# %%
# Pages
# -----
# Hue, greyscale and colour dropping need colours: patches of one channel pass them unchanged.
page("Steps of the augmentation", steps, colour, options.out / "augmentation_colour.png")
page("The same steps in grey", steps, grey, options.out / "augmentation_grey.png")

# %%
# The sixteen primitives of AutoAugment, at magnitudes drawn for each patch. SamplePairing is there
# for those who ask for it by name: it lets one patch shine through another.
page("Primitives of AutoAugment", primitives, colour, options.out / "augmentation_primitives.png")
