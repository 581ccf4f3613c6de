"""CIFAR-10: accuracy against the number of labels, pretrained and from scratch.

    python benchmarks/label_efficiency.py ARCHIVE --setting cpu
    python benchmarks/label_efficiency.py ARCHIVE --setting gpu --model model.safetensors

ARCHIVE is that of benchmarks/cifar10.py. One pretraining on the training images without labels, of
that benchmark's settings, is shared by the classifier on frozen features and by the fine-tuned one;
`--model` takes it from a file, which `--save` wrote in a run of the same setting and seed.
The network from scratch has the same layers, augmentation and early stopping. Classifiers choose
their penalty inside the labelled subset, and fine-tuning ends by images held out of it; test images
choose nothing. Results are appended to a file of JSON lines, one for the run and one for each
estimator as soon as it is measured.
"""

import argparse
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from cifar10 import SETTINGS as CIFAR10
from cifar10 import ChosenC, draw_images, environment, has_native_bf16
from measuring import new_file
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_cpc import (
    CPCClassifier,
    CPCTransformer,
    LabelEfficiencyDisplay,
    label_efficiency_curve,
    label_saving,
)
from sklearn_cpc.evaluation import FlattenImages, HogFeatures, curve_table

# From scratch means from the dictionary that the encoder starts as, which is k-means, no labels.
FINE_TUNED, SCRATCH = "CPC, fine-tuned", "from scratch"
SETTINGS = {
    "cpu": {
        "n_train": 10_000,
        "n_test": 3_000,
        "labels_per_class": (10, 25, 100, 500),
        "n_repeats": 3,
        # Half the epochs of that benchmark, and the training stride: fine-tuning costs a third
        # of that at stride 2.
        "pretraining": CIFAR10["cpu"]["cpc"] | {"max_epochs": 18},
        "features": {
            "transform_stride": 4,
            "transform_flip": False,
            "pooling": "quadrant-means",
        },
        FINE_TUNED: {"max_batches": 200},
        SCRATCH: {"max_batches": 600},
    },
    "gpu": {
        "n_train": 50_000,
        "n_test": 10_000,
        "labels_per_class": (10, 25, 100, 500, 4500),
        "n_repeats": 3,
        "pretraining": CIFAR10["gpu"]["cpc"],
        "features": {
            "transform_stride": 2,
            "transform_flip": False,
            "pooling": "quadrant-means",
        },
        FINE_TUNED: {"max_batches": 5000, "max_epochs": 50},
        SCRATCH: {"max_batches": 20_000, "max_epochs": 200, "patience": 20},
    },
}
# To see that everything runs.
QUICK = {
    "n_train": 60,
    "n_test": 30,
    "labels_per_class": (3, 8),
    "n_repeats": 1,
    "pretraining": {
        "n_components": 16,
        "latent_dim": 8,
        "context_dim": 4,
        "context_depth": 1,
        "max_epochs": 1,
    },
    FINE_TUNED: {"max_batches": 2},
    SCRATCH: {"max_batches": 2},
}


def estimators(cpc, untrained, setting, seed):
    """What is measured, by name."""
    frozen, shared = FrozenEstimator(cpc), {"augment": "full", "random_state": seed, "verbose": 1}
    features = {
        "CPC, frozen": [frozen],
        "untrained encoder": [FrozenEstimator(untrained)],
        "HOG": [HogFeatures()],
        "PCA, 128": [FlattenImages(), PCA(min(128, setting["n_train"]), random_state=0)],
        "raw pixels": [FlattenImages()],
    }
    if find_spec("skimage") is None:
        del features["HOG"]
    classifiers = {
        name: make_pipeline(*steps, StandardScaler(), ChosenC(max_iter=200))
        for name, steps in features.items()
    }
    return classifiers | {
        FINE_TUNED: CPCClassifier(frozen, **shared | setting[FINE_TUNED]),
        SCRATCH: CPCClassifier(frozen, init="random", **shared | setting[SCRATCH]),
    }


def pretrained(options, setting, X):
    """The fitted transformer, from the file or by fitting it here, and the seconds it took."""
    if options.model:
        return CPCTransformer.load(options.model).set_params(**setting["features"]), None
    settings = setting["pretraining"] | setting["features"] | {"random_state": options.seed}
    settings["precision"] = options.precision or ("bf16" if has_native_bf16() else "float32")
    start = time.perf_counter()
    cpc = CPCTransformer(**settings, verbose=1).fit(X)
    seconds = time.perf_counter() - start
    if options.save:
        cpc.save(options.save)
    return cpc, round(seconds, 1)


def append(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row, default=str) + "\n")


def report(curves, path):
    """Print what the curves say, and draw them."""
    print(f"\n{curve_table(curves)}\n")
    for name in ("CPC, frozen", FINE_TUNED):
        for reference in (SCRATCH, "untrained encoder", "PCA, 128", "raw pixels"):
            saving = label_saving(curves[name], curves[reference]).text
            print(f"{name}: {saving} fewer labels for the best accuracy of {reference}")
    for name, reference in ((FINE_TUNED, SCRATCH), (FINE_TUNED, "CPC, frozen")):
        gains = " ".join(f"{gain:+.3f}" for gain in curves[name].mean - curves[reference].mean)
        print(f"{name} above {reference}: {gains}")
    import matplotlib

    matplotlib.use("Agg")
    display = LabelEfficiencyDisplay.from_results(curves).plot(saving=(FINE_TUNED, SCRATCH))
    display.figure_.savefig(path, dpi=150)


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--model", type=Path, help="file with the pretrained transformer")
    parser.add_argument("--save", type=new_file, help="where to write the pretrained transformer")
    parser.add_argument("--quick", action="store_true", help="few images, epochs and features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"))
    parser.add_argument("--out", type=Path, default=here / "results" / "label_efficiency.jsonl")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        options.out = Path("label_efficiency_quick.jsonl")  # no result beside results
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    setting = SETTINGS[options.setting] | (QUICK if options.quick else {})
    X, y, train, test = draw_images(
        options.archive, setting["n_train"], setting["n_test"], options.seed
    )
    cpc, seconds = pretrained(options, setting, X[train])
    untrained = clone(cpc).set_params(max_epochs=0, verbose=0).fit(X[train])
    append(
        options.out,
        {
            "what": "run",
            "setting": "quick" if options.quick else options.setting,
            "seed": options.seed,
            "threads": options.threads,
            "cpc": cpc.get_params(),
            "pretraining_epochs": cpc.n_iter_,
            "pretraining_seconds": seconds,
            "model": options.model and options.model.name,
            **{name: setting[name] for name in (FINE_TUNED, SCRATCH)},
            "date": time.strftime("%Y-%m-%d"),
            **environment(),
        },
    )
    n_classes, curves = len(set(y[train])), {}
    for name, estimator in estimators(cpc, untrained, setting, options.seed).items():
        start = time.perf_counter()
        curves[name] = curve = label_efficiency_curve(
            estimator,
            X,
            y,
            label_fractions=[n_classes * n for n in setting["labels_per_class"]],
            cv=[(train, test)],
            n_repeats=setting["n_repeats"],
            random_state=options.seed,
        )
        row = {
            "what": "label efficiency",
            "setting": "quick" if options.quick else options.setting,
            "seed": options.seed,
            "estimator": name,
            "n_labels": curve.n_labels[0].tolist(),
            "n_test": len(test),
            "scores": curve.scores[:, 0, :].round(4).tolist(),
            "fit_seconds": curve.fit_times.mean(axis=(1, 2)).round(2).tolist(),
            "seconds": round(time.perf_counter() - start, 1),
        }
        append(options.out, row)
        print(f"{name:16} {curve.mean.round(4)}  {row['seconds']:.0f} s", flush=True)
    picture = options.out.with_suffix(".png")
    report(curves, picture)
    print(f"\n{len(test)} test images. Added to {options.out}; drawn in {picture}")


if __name__ == "__main__":
    main()
