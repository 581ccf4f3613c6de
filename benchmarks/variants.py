"""Every variant on colour digits: accuracy beside its own random encoder, speed and memory.

    OMP_NUM_THREADS=1 python benchmarks/variants.py --threads 1
    python benchmarks/variants.py --only "batch,bce" --first-draw 100 --out trial.jsonl

Each variant is pretrained on unlabelled images in a process of its own, and its features and those
of the same network untrained are classified by LogisticRegression(C=0.01) on a tenth of the labels
(three label subsets). A seed is that of the network, and draws images of its own: numbers 1, 2, ...
of `load_colour_digits`, none of which chose anything. The settings are those of the demo but for
smaller images and batches, which were chosen on number 100 for "base" alone; but for what follows
nothing is tuned for a variant, so that a low rank says that it needs other settings or longer.
Recipes are shrunk to the digits and keep all but their encoder, which is "conv", their batch and
their length. On number 100 some variants learned nothing in so short a training; they have more
epochs (`LONGER`), and recipes among them the base's augmentation, width, pooling and a rate of
1e-3 (`DIGITS`): their own augmentation leaves the colours of digit and ground, and the mean over
some tens of features of a shrunk network forgets the digit. Networks deeper than ResNet-18
collapsed there, and have a lower rate (`DEEP`); that the wide one has more epochs, too, was seen on
number 1. "Clearly above" is a gain of more than twice the standard error that the number of test
images allows.

Rows are appended to a file of JSON lines, and what is in it is not measured again: an interrupted
run goes on, more `--seeds` are added. On one thread of a CPU images/s count the time of the
processor, so that other programs take no part but in the caches; "speed" is images/s over the rate
of torch.mm beside it, that of "base" being 1. The ResNets take long, and without a GPU run only if
named.
"""

import argparse
import copy
import json
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from cifar10 import has_native_bf16
from measuring import known_rows
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_cpc import CPCTransformer, recipe
from sklearn_cpc.datasets import load_colour_digits
from sklearn_cpc.estimators.recipes import RECIPES, image_size
from sklearn_cpc.nn import CONTEXTS, ENCODERS, Augmentation

BASE = {
    "n_components": 256,
    "pooling": "quadrants",
    "directions": ("down", "right"),
    "negative_images": 4,
    "augment": Augmentation(flip=0, channel=0.4, brightness=0.3, contrast=0.5, channel_drop=0),
    "batch_size": 16,
    "learning_rate": 3e-3,
}
SAMPLED = {"negatives": "sampled", "n_candidates": 512}
LONGER = {
    "queue": 2,
    "hard": 2,
    "greedy sequential": 2,
    "recipe cpc-v1": 2,
    "recipe greedy-infomax": 4,
    "recipe colour-mnist": 2,
    "recipe cpc-gru": 2,
    "recipe small-images": 2,
    "encoder wrn28-2": 2,
}
# At the base's rate such networks collapse within the first steps of so short a training.
DEEP = {"learning_rate": 3e-4}
DIGITS = {name: BASE[name] for name in ("augment", "n_components", "pooling")}
DIGITS |= {"learning_rate": 1e-3, "transform_flip": False}
# What makes a row another measurement of the same thing.
KEY = ("variant", "seed", "image_size", "n_train", "n_test", "epochs", "first_draw", "precision")


def variants():
    """Name -> settings, beside the base."""
    table = {
        "base": {},
        "image": {"negatives": "image"},
        "place": {"negatives": "place"},
        "sampled": SAMPLED,
        "batch": {"negatives": "batch"},
        "mixed": {"negatives": "mixed", "n_candidates": 20},
        "queue": SAMPLED | {"negatives": "queue"},
        "hard": SAMPLED | {"negatives": "hard"},
        "bce": {"objective": "bce"},
        "dot": {"similarity": "dot", "temperature": 10.0},
        "greedy joint": {"greedy": "joint"},
        "greedy sequential": {"greedy": "sequential"},
        "averaging": {"averaging": 0.999},
        "accumulate": {"accumulate": 4},
    }
    table |= {f"output {o}": {"output": o} for o in ("z", "c", "both")}
    table |= {f"pooling {p}": {"pooling": p} for p in ("max", "mean", "max+mean", "pyramid")}
    table |= {f"context {c}": {"context": c} for c in CONTEXTS if c != "pixelcnn"}
    shallow = ("conv", "dictionary", "resnet18")
    table |= {
        f"encoder {e}": {"encoder": e} | ({} if e in shallow else DEEP)
        for e in ENCODERS
        if e != "conv"
    }
    return table | {f"recipe {name}": None for name in RECIPES}


def settings_of(name, epochs, side, seed):
    """Parameters of a variant for images of this side."""
    changes = {"max_epochs": epochs, "random_state": seed}
    if not name.startswith("recipe "):
        return BASE | variants()[name] | changes
    name = name.removeprefix("recipe ")
    scale = min(1, side / image_size(name))
    changes |= DIGITS if f"recipe {name}" in LONGER else {}
    params = recipe(name, scale=scale, encoder="conv", batch_size=BASE["batch_size"], **changes)
    params.pop("encoder_norm", None)
    return params


def is_slow(name):
    """Whether a variant is left out where there is no GPU."""
    return name.startswith("encoder ") and ("resnet" in name or "wrn" in name)


def training_of(key):
    """What two keys have in common whose networks are trained alike: they are trained once."""
    is_base = key["variant"].startswith(("output ", "pooling "))
    return key | {"variant": "base" if is_base else key["variant"]}


def measure(keys, threads):
    """The rows of variants with one training, in a process of their own."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        common = training_of(keys[0])
        data = load_colour_digits(
            n_train=common["n_train"],
            n_test=common["n_test"],
            image_size=common["image_size"],
            random_state=common["first_draw"] + common["seed"],
        )
        cpc, untrained, measured = trained(common, data.X_train)
        measured |= {
            "threads": threads,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "date": time.strftime("%Y-%m-%d"),
        }
        rows = []
        for key in keys:
            after = settings_of(key["variant"], 0, key["image_size"], 0)
            after = {what: after[what] for what in ("output", "pooling") if what in after}
            own = {
                name: scores(copy.copy(fitted).set_params(**after), data)
                for name, fitted in (("scores", cpc), ("random_scores", untrained))
            }
            rows.append(key | own | measured)
        return rows


def trained(key, X):
    """The transformer, the same untrained, and what the training took."""
    settings = settings_of(key["variant"], key["epochs"], key["image_size"], key["seed"])
    settings["precision"] = key["precision"]
    cpc = CPCTransformer(**settings)
    untrained = CPCTransformer(**settings | {"max_epochs": 0}).fit(X)
    device = untrained.net_.device
    before, clock = mm_rate(key["precision"], device), clock_of(device)
    start = clock()
    cpc.fit(X)
    seconds = clock() - start
    after = mm_rate(key["precision"], device)
    return (
        cpc,
        untrained,
        {
            "images_per_second": round(key["n_train"] * key["epochs"] / seconds, 1),
            "mm_gflops": round((before + after) / 2, 1),
            "peak_gib": round(peak_gib(device), 3),
            "bound_nats": round(cpc.history_[-1]["mutual_information"], 3),
        },
    )


def clock_of(device):
    """The processor's time on one thread of a CPU, else that of the wall."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def mm_rate(precision, device, side=1024, repeats=20):
    """GFLOP/s of a plain product of two square matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    float(torch.mm(a, b)[0, 0])
    clock = clock_of(device)
    start = clock()
    for _ in range(repeats):
        product = torch.mm(a, b)
    float(product[0, 0])
    return 2e-9 * side**3 * repeats / (clock() - start)


def peak_gib(device):
    """Of the device, or of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def scores(cpc, data, n_subsets=3):
    """Accuracy on the test images with a tenth of the labels, for each label subset."""
    test, found = cpc.transform(data.X_test), []
    for seed in range(n_subsets):
        chosen, _ = train_test_split(
            np.arange(len(data.X_train)), train_size=0.1, stratify=data.y_train, random_state=seed
        )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        classifier.fit(cpc.transform(data.X_train[chosen]), data.y_train[chosen])
        found.append(round(float(classifier.score(test, data.y_test)), 4))
    return found


def table(rows):
    """Lines of the table, a line for each variant, and the variants not clearly above random."""
    names = {row["variant"] for row in rows}
    lines, weak = [], []
    base = [relative_rate(row) for row in rows if row["variant"] == "base"]
    for name in (name for name in variants() if name in names):
        own = [row for row in rows if row["variant"] == name]
        accuracy, random = (
            np.array([np.mean(row[what]) for row in own]) for what in ("scores", "random_scores")
        )
        gain = accuracy - random
        n_images = own[0]["n_test"] * len(own)
        error = (sum(a.mean() * (1 - a.mean()) for a in (accuracy, random)) / n_images) ** 0.5
        if gain.mean() <= 2 * error:
            weak.append(name)
        speed = np.median([relative_rate(row) for row in own]) / np.median(base or [np.nan])
        cells = [
            name,
            *(spread(values, sign) for values, sign in ((accuracy, ""), (random, ""), (gain, "+"))),
            str(len(own)),
            f"{np.median([row['images_per_second'] for row in own]):.0f}",
            f"{speed:.2f}",
            f"{max(row['peak_gib'] for row in own):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines, weak


def relative_rate(row):
    return row["images_per_second"] / row["mm_gflops"]


def spread(values, sign=""):
    """Mean and, of several, their standard deviation."""
    mean = f"{values.mean():{sign}.3f}"
    return f"{mean} ± {values.std(ddof=1):.3f}" if len(values) > 1 else mean


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="names of variants, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-draw", type=int, default=1, help="of seed 0; 100 for choices")
    parser.add_argument("--image-size", type=int, default=24)
    parser.add_argument("--n-train", type=int, default=2000)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "variants.jsonl"
    )
    options = parser.parse_args()
    options.names = [n for n in variants() if torch.cuda.is_available() or not is_slow(n)]
    if options.only:
        options.names = [name.strip() for name in options.only.split(",")]
    if unknown := sorted(set(options.names) - set(variants())):
        parser.error(f"--only: {unknown} are unknown; there are {sorted(variants())}.")
    if options.precision == "auto":
        options.precision = "bf16" if has_native_bf16() else "float32"
    return options


def n_epochs(name, options):
    return options.epochs * LONGER.get(name, 1)


def wanted(options):
    """The keys of all rows, a whole seed after the other."""
    shared = {what: getattr(options, what) for what in KEY[2:]}
    return [
        {"variant": name, "seed": seed} | shared | {"epochs": n_epochs(name, options)}
        for seed in range(options.seeds)
        for name in options.names
    ]


def main():
    options = parse()
    keys, rows = known_rows(options.out, wanted(options), KEY)
    while keys:
        alike = [key for key in keys if training_of(key) == training_of(keys[0])]
        keys = [key for key in keys if key not in alike]
        # A process for each, which has its own peak memory; not forked from one that knows CUDA.
        with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
            found = pool.submit(measure, alike, options.threads).result()
        rows += found
        with options.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
        for row in found:
            both = " / ".join(str(row[what]) for what in ("scores", "random_scores"))
            print(f"{row['variant']}, seed {row['seed']}: {both}", flush=True)
    lines, weak = table(rows)
    print("\n| variant | accuracy | random encoder | gain | seeds | images/s | speed | peak GiB |")
    print("| :-- | --: | --: | --: | --: | --: | --: | --: |", *lines, sep="\n")
    print(f"\nNot clearly above their random encoder: {', '.join(weak) or 'none'}.")


if __name__ == "__main__":
    main()
