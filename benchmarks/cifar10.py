"""CIFAR-10: what CPC features learned without labels are worth, beside the alternatives.

    python benchmarks/cifar10.py ARCHIVE --setting cpu
    python benchmarks/cifar10.py ARCHIVE --setting gpu
    python benchmarks/cifar10.py ARCHIVE --choose --epochs 5 --only CPC

ARCHIVE is a tar file with train/<class>/*.jpg and test/<class>/*.jpg. The "cpu" setting pretrains
on 10,000 training images for at most 15 minutes and classifies 5,000 test images; the "gpu"
setting takes all 50,000 and all 10,000. Encoders see the training images only. Each classifier is
a LogisticRegression on standardised features whose C is chosen by cross-validation inside the
labelled subset; test images choose nothing. SimCLR trains for as long as CPC did, or for
--simclr-minutes; alone, without a CPC:

    python benchmarks/cifar10.py ARCHIVE --only SimCLR --epochs 0 --simclr-minutes 14.4

Results are appended to a file of JSON lines, one for each set of features, and one for the run.
"""

import argparse
import copy
import json
import os
import platform
import resource
import tarfile
import time
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import sklearn
import skorch
import torch
from measuring import CLOCKS, new_file, product, synchronize
from PIL import Image
from simclr import SimCLR
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_cpc import CPCClassifier, CPCTransformer, label_efficiency_curve, recipe
from sklearn_cpc.evaluation import FlattenImages, HogFeatures, PatchKMeans, curve_table

SCRATCH = "supervised network from scratch"
SETTINGS = {
    "cpu": {
        "n_train": 10_000,
        "n_test": 5_000,
        "label_counts": (100, 1000, 5000),
        "n_repeats": 1,
        "kmeans_components": (400, 1024),
        "n_batches": 600,
        "cpc": recipe("small-images"),
        "simclr": {
            "width": 32,
            "n_blocks": (1, 1, 1),
            "stem_stride": 2,
            "temperature": 0.2,
            "least_area": 0.2,
        },
    },
    "gpu": {
        "n_train": 50_000,
        "n_test": 10_000,
        "label_counts": (500, 5000, 50_000),
        "n_repeats": 1,
        "kmeans_components": (1024, 4000),
        "n_batches": 20_000,
        "cpc": recipe(
            "small-images",
            max_epochs=100,
            batch_size=256,
            directions=("down", "up", "right", "left"),
        ),
        # ResNet-18 whole, and the paper's temperature and crops.
        "simclr": {"width": 64, "stem_stride": 1, "batch_size": 512},
    },
}


def load_cifar10(archive):
    """The images and labels of both parts: (n, 32, 32, 3) uint8 and (n,)."""
    parts = {"train": ([], []), "test": ([], [])}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            path = Path(member.name)
            if path.suffix != ".jpg":
                continue
            images, names = parts[path.parts[-3]]
            images.append(np.asarray(Image.open(BytesIO(tar.extractfile(member).read()))))
            names.append(path.parts[-2])
    classes = sorted(set(parts["train"][1]))
    return [
        (np.stack(images), np.array([classes.index(name) for name in names]))
        for images, names in parts.values()
    ]


def draw_images(archive, n_train, n_test, seed, choose=False):
    """Random images of both parts in one array, their labels, and the rows of each part.

    With `choose` 5,000 training images, the same for every seed, take the place of the test images.
    """
    (X, y), (X_test, y_test) = load_cifar10(archive)
    if choose:
        order = np.random.RandomState(2026).permutation(len(X))
        (X_test, y_test), (X, y) = (
            (X[order[:5000]], y[order[:5000]]),
            (X[order[5000:]], y[order[5000:]]),
        )
    rng = np.random.RandomState(seed)
    chosen = rng.permutation(len(X))[:n_train]
    tested = rng.permutation(len(X_test))[:n_test]
    X = np.concatenate([X[chosen], X_test[tested]])
    y = np.concatenate([y[chosen], y_test[tested]])
    return X, y, np.arange(len(chosen)), np.arange(len(chosen), len(X))


def count_flops(cpc, images):
    """Floating-point operations of one training step per image, counted from the shapes."""
    from torch.utils.flop_counter import FlopCounterMode

    net = cpc.net_
    model = net.module_.train()
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(net.device) / 255
    counter = FlopCounterMode(display=False)
    with counter:
        with net.autocast():
            loss = model(batch).loss
        loss.backward()
    model.zero_grad(set_to_none=True)
    model.eval()
    return counter.get_total_flops() / len(images)


def product_rate(precision, device, side=2048, repeats=20):
    """FLOP/s of a plain product of two square matrices."""
    multiply, flop = product(precision, device, side)
    for _ in range(3):
        multiply()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        multiply()
    synchronize(device)
    return flop * repeats / (time.perf_counter() - start)


def has_native_bf16():
    """Whether bf16 products are faster than float32 ones here, by trying."""
    return torch.cuda.is_available() or product_rate("bf16", "cpu", 1024, 5) > 1.2 * product_rate(
        "float32", "cpu", 1024, 5
    )


def pooled(cpc, pooling):
    """The same fitted transformer with another pooling, not to be fitted again."""
    return FrozenEstimator(copy.copy(cpc).set_params(pooling=pooling))


class WithMirrorImages(TransformerMixin, BaseEstimator):
    """The mean of a transformer's features of images and of their mirror images."""

    def __init__(self, transformer):
        self.transformer = transformer

    def fit(self, X, y=None):
        self.transformer_ = clone(self.transformer).fit(X, y)
        return self

    def transform(self, X):
        return (self.transformer_.transform(X) + self.transformer_.transform(X[:, :, ::-1])) / 2


def feature_sets(cpc, untrained, simclr, n_kmeans, seed):
    """Name -> transformers; means over quadrants under a square root, which evens them out.

    "mirrored": over an image and its mirror image.
    """
    root = FunctionTransformer(np.sqrt)
    sets = {}
    for name, encoder in {"CPC": cpc, "untrained encoder": untrained}.items():
        for flip, how in ((True, ", mirrored"), (False, "")):
            encoder = copy.copy(encoder).set_params(transform_flip=flip)
            sets[f"{name}, max{how}"] = [pooled(encoder, "max")]
            sets[f"{name}, quadrants{how}"] = [pooled(encoder, "quadrant-means"), root]
    if simclr is not None:
        for pooling, more in (("mean", []), ("quadrants", [root])):
            frozen = pooled(simclr, pooling)
            sets[f"SimCLR, {pooling}, mirrored"] = [WithMirrorImages(frozen), *more]
    for n in n_kmeans:
        kmeans = PatchKMeans(n, random_state=seed)
        maximum = clone(kmeans).set_params(pooling="max")
        sets[f"patch k-means {n}, max, mirrored"] = [WithMirrorImages(maximum)]
        sets[f"patch k-means {n}, quadrants, mirrored"] = [WithMirrorImages(kmeans), root]
        sets[f"patch k-means {n}, max"] = [maximum]
        sets[f"patch k-means {n}, quadrants"] = [kmeans, root]
    if find_spec("skimage"):
        sets["HOG and mean colours"] = [HogFeatures()]
    sets["PCA, 128"] = [FlattenImages(), PCA(128, random_state=seed)]
    sets["raw pixels"] = [FlattenImages()]
    return sets


class ChosenC(LogisticRegression):
    """LogisticRegression whose C was chosen by 3-fold cross-validation on what it is given."""

    def fit(self, X, y):
        C = np.array([0.1, 0.3, 1, 3, 10, 30]) / X.shape[1]
        search = GridSearchCV(
            LogisticRegression(max_iter=self.max_iter), {"C": C}, cv=3, refit=False
        )
        self.C = search.fit(X, y).cv_results_["param_C"][search.best_index_]
        return super().fit(X, y)


def environment():
    """What the numbers depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    return {
        "device": device,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "skorch": skorch.__version__,
        "numpy": np.__version__,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="cpu")
    parser.add_argument("--epochs", type=int, help="instead of the setting's")
    parser.add_argument(
        "--choose", action="store_true", help="score on held-out training images, for choices"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"))
    parser.add_argument("--transform-stride", type=int, help="instead of the setting's")
    parser.add_argument(
        "--only", default=[""], nargs="+", help="features whose name begins like one of these"
    )
    parser.add_argument("--save", type=new_file, help="where to write the pretrained transformer")
    parser.add_argument("--model", type=Path, help="what --save wrote, of the same seed")
    parser.add_argument(
        "--simclr", type=json.loads, default={}, help="SimCLR's parameters, as a JSON object"
    )
    parser.add_argument("--simclr-minutes", type=float, help="instead of as long as CPC took")
    parser.add_argument(
        "--simclr-clock", choices=CLOCKS, default="wall", help='"process" adds up all cores'
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "cifar10.jsonl"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.epochs == 0 and options.simclr_minutes is None and options.only == ["SimCLR"]:
        parser.error("--epochs 0 --only SimCLR needs --simclr-minutes.")
    return options


def pretrained(options, setting, X):
    """The transformer, and the settings it was asked for."""
    settings = setting["cpc"] | {"random_state": options.seed}
    settings["precision"] = options.precision or ("bf16" if has_native_bf16() else "float32")
    if options.epochs is not None:
        settings["max_epochs"] = options.epochs
    if options.transform_stride is not None:
        settings["transform_stride"] = options.transform_stride
    if options.model:
        cpc = CPCTransformer.load(options.model)
        settings["max_epochs"] = cpc.max_epochs
        return cpc.set_params(transform_stride=settings["transform_stride"]), settings
    cpc = CPCTransformer(**settings, verbose=1).fit(X)
    if options.save:
        cpc.save(options.save)
    return cpc, settings


def describe(cpc, settings, options, X):
    """The row of the run: what was done, how fast, and on what."""
    rate = np.median([epoch["images_per_second"] for epoch in cpc.history_] or [0])
    achieved = rate * count_flops(cpc, X[: settings["batch_size"]])
    # A model from a file was trained some other time, perhaps on more cores.
    ceiling = None if options.model else product_rate(cpc.net_.precision, cpc.net_.device)
    return {
        "what": "run",
        "setting": options.setting,
        "scored_on": "held-out training images" if options.choose else "test images",
        "seed": options.seed,
        "threads": options.threads,
        "cpc": settings,
        "seconds": round(sum(epoch["seconds"] for epoch in cpc.history_), 1),
        "images_per_second": round(float(rate), 1),
        "gflops": round(achieved / 1e9, 1),
        "mm_gflops": ceiling and round(ceiling / 1e9, 1),
        "share_of_mm": ceiling and round(achieved / ceiling, 3),
        "bound_nats": round(cpc.history_[-1]["mutual_information"], 3) if cpc.history_ else None,
        "date": time.strftime("%Y-%m-%d"),
        **environment(),
    }


def rival(options, setting, run, X):
    """SimCLR, trained on the same images, or None where none of its rows is asked for."""
    wanted = any("SimCLR".startswith(name[:6]) for name in options.only)
    minutes = options.simclr_minutes or run["seconds"] / 60
    if not (wanted and minutes):
        return None
    simclr = SimCLR(
        **setting["simclr"] | options.simclr,
        max_seconds=60 * minutes,
        clock=options.simclr_clock,
        precision=run["cpc"]["precision"],
        random_state=options.seed,
        verbose=1,
    ).fit(X)
    run["simclr"] = simclr.get_params() | {
        "seconds": round(simclr.seconds_, 1),
        "n_images": simclr.n_images_,
        "loss": round(simclr.loss_, 3),
    }
    return simclr


def from_scratch(cpc, n_batches, seed):
    """The same network, trained with the labels alone, at the training stride to be quick."""
    network = copy.copy(cpc).set_params(
        transform_stride=cpc.grid_.patch_stride,
        transform_flip=False,
    )
    return CPCClassifier(
        FrozenEstimator(network),
        init="random",
        augment="full",
        max_batches=n_batches,
        random_state=seed,
    )


def speed_text(run):
    if not run["seconds"]:
        return "No pretraining"
    text = (
        f"Pretraining: {run['seconds'] / 60:.1f} minutes, {run['images_per_second']:.0f} images/s, "
        f"{run['gflops']:.0f} GFLOP/s"
    )
    if run["mm_gflops"] is None:
        return text
    share, ceiling = run["share_of_mm"], run["mm_gflops"]
    precision = run["cpc"]["precision"]
    return f"{text}, which is {share:.2f} of the {ceiling:.0f} GFLOP/s of torch.mm in {precision}"


def measure(estimator, X, y, split, setting, seed):
    """The curve of one estimator."""
    return label_efficiency_curve(
        estimator,
        X,
        y,
        label_fractions=setting["label_counts"],
        cv=[split],
        n_repeats=setting["n_repeats"],
        random_state=seed,
    )


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    setting = SETTINGS[options.setting]
    X, y, train, test = draw_images(
        options.archive, setting["n_train"], setting["n_test"], options.seed, options.choose
    )
    cpc, settings = pretrained(options, setting, X[train])
    untrained = clone(cpc).set_params(max_epochs=0, verbose=0)
    untrained = cpc if cpc.max_epochs == 0 else untrained.fit(X[train])
    run = describe(cpc, settings, options, X)
    print(f"\n{speed_text(run)}\n")
    curves, rows = {}, [run]
    simclr = rival(options, setting, run, X[train])
    sets = feature_sets(cpc, untrained, simclr, setting["kmeans_components"], options.seed)
    estimators = {
        name: make_pipeline(*steps, StandardScaler(), ChosenC(max_iter=200))
        for name, steps in sets.items()
    }
    estimators[SCRATCH] = from_scratch(cpc, setting["n_batches"], options.seed)
    for name, estimator in estimators.items():
        if not name.startswith(tuple(options.only)):
            continue
        begin = time.perf_counter()
        curves[name] = curve = measure(estimator, X, y, (train, test), setting, options.seed)
        rows.append(
            {
                "what": "accuracy",
                "setting": options.setting,
                "seed": options.seed,
                "features": name,
                "transform_stride": settings["transform_stride"],
                "n_labels": curve.n_labels[0].tolist(),
                "scores": curve.scores[:, 0, :].round(4).tolist(),
                "seconds": round(time.perf_counter() - begin, 1),
            }
        )
        print(f"{name:30} {curve.mean.round(4)}  {rows[-1]['seconds']:.0f} s", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        run["peak_device_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    run["peak_memory_gib"] = round(memory, 2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
    if curves:
        print(f"\nAccuracy on {len(test)} {run['scored_on']}\n\n{curve_table(curves)}")
    print(f"\nPeak memory {memory:.2f} GiB. Added to {options.out}")


if __name__ == "__main__":
    main()
