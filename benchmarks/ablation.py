"""CIFAR-10: from CPC v1 to CPC v2 one step at a time, on few images of a CPU or on all of a GPU.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py ARCHIVE --threads 1
    python benchmarks/ablation.py ARCHIVE --setting gpu
    python benchmarks/ablation.py ARCHIVE --steps "v1,projection" --seeds 5

ARCHIVE is that of benchmarks/cifar10.py. Each step keeps the ones before it. A seed is that of the
network, of the images and of the labels; all steps of a seed see the same, and a gain is the mean
over seeds of the difference from the step before, with its standard error. Accuracies are on
training images held out of everything else (test images are not touched), of a LogisticRegression
on the mean over an image's patches, C chosen inside the labelled subset. Rate, batch and length are
those of `SETTINGS` for every step and were not tuned for any, so that a step that needs other ones
may look worse than it is. On the CPU the encoder is `PatchNet`, a few convolutions; on the GPU
ResNet-18.

Rows are appended to a file of JSON lines, and what is in it is not measured again: an interrupted
run goes on, more `--seeds` are added. The table and the picture are made of what is there. On one
thread of a CPU images/s count the time of the processor, so that other programs take no part.
"""

import argparse
import json
import os
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from cifar10 import ChosenC, environment, has_native_bf16, load_cifar10
from measuring import known_rows
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from variants import clock_of, mm_rate

from sklearn_cpc import CPCTransformer
from sklearn_cpc.nn import AUGMENTATIONS, Augmentation, ResNetEncoder
from sklearn_cpc.nn.layers import he_init_, make_norm

V2 = AUGMENTATIONS["cpc-v2"]
# Whole images are not moved: the blocks of JPEG files would tell how far.
V1_CHANGES = Augmentation(**vars(AUGMENTATIONS["cpc-v1"]) | {"shift": 0.0, "greyscale": 0.0})
COLOUR_DROPPED = Augmentation(**vars(V1_CHANGES) | {"channel_drop": 1.0})
ALL_CHANGES = Augmentation(**vars(V2) | {"shift": 0.0})
V1 = {
    "norm": "none",
    "wide": 1,
    "directions": ("down",),
    "similarity": "dot",
    "temperature": 1.0,
    "projection_dim": None,
    "augment": V1_CHANGES,
}
# What each step changes, and what it brought on ImageNet in CPC v2, in points of top-1 accuracy of
# a linear classifier: O. Hénaff et al., ICML 2020, section 4.1 and figure 3, where the order is
# another. Left out: larger patches (+2), which would be another grid.
STEPS = {
    "v1": (V1, None),
    "projection": ({"projection_dim": 64, "temperature": 10.0}, None),
    "group norm": ({"norm": "group"}, None),
    "layer norm": ({"norm": "layer"}, 2.0),
    "bottom-up": ({"directions": ("down", "up")}, 2.0),
    "four directions": ({"directions": ("down", "up", "right", "left")}, 2.5),
    "colour dropping": ({"augment": COLOUR_DROPPED}, 3.0),
    "patch augmentation": ({"augment": ALL_CHANGES}, 4.5),
    "capacity": ({"wide": 2}, 5.0),
}
SETTINGS = {
    "cpu": {
        "n_train": 4000,
        "n_test": 2000,
        "n_labels": 1000,
        "cpc": {
            "patch_size": 8,
            "patch_stride": 4,
            "context_dim": 64,
            "context_depth": 3,
            "max_epochs": 4,
            "batch_size": 32,
            "learning_rate": 2e-3,
        },
    },
    "gpu": {
        "n_train": 45_000,
        "n_test": 5000,
        "n_labels": 5000,
        "cpc": {
            "patch_size": 8,
            "patch_stride": 4,
            "context_dim": 256,
            "context_depth": 5,
            "max_epochs": 60,
            "batch_size": 128,
            "learning_rate": 4e-4,
        },
    },
}
QUICK = {"n_train": 30, "n_test": 20, "n_labels": 20}
KEY = ("step", "seed", "setting", "precision", "n_train", "n_test", "n_labels", "cpc")


class PatchNet(nn.Module):
    """Two convolutions and two layers on top, for patches of 8x8 pixels, with a norm of choice."""

    def __init__(self, n_channels, *, norm, wide=1):
        super().__init__()
        widths = (n_channels, 32 * wide, 128 * wide, 128 * wide, 128 * wide)
        layers = []
        for i, (kernel, stride) in enumerate([(4, 2), (3, 1), (1, 1), (1, 1)]):
            n_in, n_out = widths[i : i + 2]
            layers += [
                nn.Conv2d(n_in, n_out, kernel, stride, bias=norm == "none"),
                make_norm(norm, n_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        he_init_(self)

    def forward(self, patches):
        return self.body(patches).mean((2, 3))


def settings_of(step, setting):
    """Parameters of a step: those of all steps up to it."""
    changes = {}
    for name, (own, _) in STEPS.items():
        changes |= own
        if name == step:
            break
    norm, wide = changes.pop("norm"), changes.pop("wide")
    encoder = partial(PatchNet, norm=norm, wide=wide)
    if setting == "gpu":
        encoder = partial(ResNetEncoder, patch_size=(8, 8), norm=norm, width=64 * wide)
    own = {"n_components": None, "latent_dim": None, "n_steps": 3, "negatives": "batch"}
    return own | changes | {"encoder": encoder, "pooling": "mean"}


@cache
def training_images(archive):
    return load_cifar10(archive)[0]


def drawn(archive, n_train, n_test, seed):
    """Training images of the archive and their labels: the first `n_train` to learn from."""
    X, y = training_images(archive)
    chosen = np.random.RandomState(seed).permutation(len(X))[: n_train + n_test]
    return X[chosen], y[chosen]


def measure(key, archive):
    """The row of one step and seed."""
    X, y = drawn(archive, key["n_train"], key["n_test"], key["seed"])
    train, test = np.split(np.arange(len(X)), [key["n_train"]])
    settings = settings_of(key["step"], key["setting"]) | key["cpc"]
    settings |= {"random_state": key["seed"], "precision": key["precision"]}
    settings["transform_stride"] = settings["patch_stride"]
    cpc = CPCTransformer(**settings)
    untrained = CPCTransformer(**settings | {"max_epochs": 0}).fit(X[train])
    device, clock = untrained.net_.device, clock_of(untrained.net_.device)
    rate, start = mm_rate(key["precision"], device), clock()
    cpc.fit(X[train])
    seconds = clock() - start
    labelled, _ = train_test_split(
        train, train_size=key["n_labels"], stratify=y[train], random_state=key["seed"]
    )
    return key | {
        "accuracy": accuracy(cpc, X, y, labelled, test),
        "random": accuracy(untrained, X, y, labelled, test),
        "scored_on": "held-out training images",
        "bound_nats": round(cpc.history_[-1]["mutual_information"], 3),
        "images_per_second": round(len(train) * settings["max_epochs"] / seconds, 1),
        "mm_gflops": round(rate, 1),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        **environment(),
    }


def accuracy(cpc, X, y, labelled, test):
    classifier = make_pipeline(StandardScaler(), ChosenC(max_iter=200))
    classifier.fit(cpc.transform(X[labelled]), y[labelled])
    return round(float(classifier.score(cpc.transform(X[test]), y[test])), 4)


def summary(rows):
    """Step -> accuracies by seed, those of the untrained network, gain over the step before.

    The gain is of the seeds that both steps have: mean, standard error (nan for one seed).
    """
    found, before = {}, {}
    for step in STEPS:
        own = {row["seed"]: row for row in rows if row["step"] == step}
        if not own:
            before = {}  # the next has no step before it
            continue
        pairs = [own[s]["accuracy"] - before[s]["accuracy"] for s in sorted(set(own) & set(before))]
        found[step] = {
            "accuracy": np.array([own[seed]["accuracy"] for seed in sorted(own)]),
            "random": np.array([own[seed]["random"] for seed in sorted(own)]),
            "gain": mean_and_error(pairs),
            "images_per_second": float(np.median([r["images_per_second"] for r in own.values()])),
        }
        before = own
    return found


def mean_and_error(differences):
    if not differences:
        return None
    error = np.nan
    if len(differences) > 1:
        error = np.std(differences, ddof=1) / len(differences) ** 0.5
    return float(np.mean(differences)), float(error)


def lines(found):
    """The table."""
    yield "| step | seeds | accuracy | random encoder | gain | paper, ImageNet | images/s |"
    yield "| :-- | --: | --: | --: | --: | --: | --: |"
    for step, own in found.items():
        paper = STEPS[step][1]
        accuracies, random = (spread(own[what]) for what in ("accuracy", "random"))
        gain = "" if own["gain"] is None else plus_minus(*own["gain"], "+.3f")
        yield (
            f"| {step} | {len(own['accuracy'])} | {accuracies} | {random} | {gain} | "
            f"{f'{paper / 100:+.3f}' if paper else ''} | {own['images_per_second']:.0f} |"
        )


def spread(values):
    return plus_minus(values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan, ".3f")


def plus_minus(value, error, form):
    return f"{value:{form}}" + ("" if np.isnan(error) else f" ± {error:.3f}")


def verdict(found):
    """Which steps helped or harmed beyond twice the standard error, and which did neither."""
    kinds = {"Better": [], "Worse": [], "Neither": [], "One seed only": []}
    for step, own in found.items():
        if own["gain"] is None:
            continue
        gain, error = own["gain"]
        if np.isnan(error):
            kind = "One seed only"
        elif abs(gain) <= 2 * error:
            kind = "Neither"
        else:
            kind = "Better" if gain > 0 else "Worse"
        kinds[kind].append(f"{step} ({gain:+.3f})")
    lines = [f"{kind}: {', '.join(names)}." for kind, names in kinds.items() if names]
    return "\n".join(["By more than twice the standard error.", *lines])


def draw(found, path, title):
    """Accuracy after each step, a point for each seed, beside the untrained network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    places = np.arange(len(found))
    for what, colour, label in (
        ("accuracy", "C0", "trained"),
        ("random", "0.6", "random encoder"),
    ):
        means = [own[what].mean() for own in found.values()]
        ax.plot(places, means, "o-", color=colour, label=f"{label}, mean")
        for place, own in zip(places, found.values(), strict=True):
            ax.plot([place] * len(own[what]), own[what], "_", color=colour, markersize=12)
    for place, own in zip(places, found.values(), strict=True):
        if own["gain"] is not None:
            top = own["accuracy"].max()
            text = plus_minus(*own["gain"], "+.3f").replace(" ± ", "\n± ")
            ax.annotate(
                text, (place, top), (0, 7), textcoords="offset points", ha="center", fontsize=8
            )
    ax.set_xticks(places, [step.replace(" ", "\n") for step in found], fontsize=9)
    ax.set_ylabel("accuracy, held-out training images")
    ax.margins(y=0.15)
    ax.set_title(title, fontsize=10)
    ax.legend(loc="best")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--steps", help="names of steps, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the setting's")
    parser.add_argument("--quick", action="store_true", help="few images, to see that all runs")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "ablation.jsonl"
    )
    options = parser.parse_args()
    options.steps = [s.strip() for s in options.steps.split(",")] if options.steps else list(STEPS)
    if unknown := sorted(set(options.steps) - set(STEPS)):
        parser.error(f"--steps: {unknown} are unknown; there are {list(STEPS)}.")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1.")
    if options.quick and options.out == parser.get_default("out"):
        options.out = Path("ablation_quick.jsonl")  # no result beside results
    if options.precision == "auto":
        options.precision = "bf16" if has_native_bf16() else "float32"
    return options


def wanted(options, steps):
    """The keys of all rows of these steps, a whole seed after the other."""
    setting = SETTINGS[options.setting] | (QUICK if options.quick else {})
    if options.epochs is not None:
        setting = setting | {"cpc": setting["cpc"] | {"max_epochs": options.epochs}}
    shared = {"setting": options.setting, "precision": options.precision, **setting}
    return [
        {"step": step, "seed": seed} | shared for seed in range(options.seeds) for step in steps
    ]


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    keys, _ = known_rows(options.out, wanted(options, options.steps), KEY)
    for key in keys:
        row = measure(key, options.archive)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['step']}, seed {row['seed']}: {row['accuracy']}, {row['random']}", flush=True)
    _, rows = known_rows(options.out, wanted(options, STEPS), KEY)  # earlier runs' as well
    found = summary(rows)
    print("", *lines(found), "", verdict(found), sep="\n")
    first, picture = rows[0], options.out.with_suffix(".png")
    title = (
        f"CIFAR-10, {first['n_train']:,} unlabelled images, {first['cpc']['max_epochs']} epochs, "
        f"{first['n_labels']:,} labels"
    )
    draw(found, picture, title)
    print(
        f"\n{first['n_test']} held-out training images. Added to {options.out}; drawn in {picture}"
    )


if __name__ == "__main__":
    main()
