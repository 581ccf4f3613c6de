"""What a whole label-efficiency curve costs, beside the pretrainings that it cannot do without.

    python benchmarks/label_efficiency_cost.py

5 splits x 7 fractions x 3 repeats on the 1,797 digits of scikit-learn: the five pretrainings
alone, then the whole curve by `label_efficiency_curve`, in the same process. The claim is a ratio
of at most 1.3. The encoder is small and quickly trained, which is hard on the claim: a longer
pretraining makes everything else weigh less. Appends a JSON line.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_cpc
from sklearn_cpc import CPCTransformer, LabelFractionSplit, label_efficiency_curve


def environment():
    """What the numbers depend on."""
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "sklearn_cpc": sklearn_cpc.__version__,
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-images", type=int, default=1797)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cv", type=int, default=5)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "label_efficiency_cost.jsonl",
    )
    options = parser.parse_args()
    X, y = load_digits(return_X_y=True)
    X, y = X[: options.n_images], y[: options.n_images]
    cpc = CPCTransformer(
        64,
        latent_dim=32,
        directions=("down", "right"),
        max_epochs=options.epochs,
        random_state=0,
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    pipe = make_pipeline(cpc, classifier)
    clone(cpc).set_params(max_epochs=1).fit(X[:128])  # the first fit pays for the start of torch

    splitter = LabelFractionSplit(cv=options.cv, n_repeats=3, random_state=0)
    splits = list(splitter.nested_splits(X, y))
    start, start_cpu = time.perf_counter(), time.process_time()
    for train, _, _ in splits:
        clone(cpc).fit(X[train])
    middle, middle_cpu = time.perf_counter(), time.process_time()
    curve = label_efficiency_curve(pipe, X, y, cv=options.cv, n_repeats=3, random_state=0)
    end, end_cpu = time.perf_counter(), time.process_time()

    n_fits = sum(len({rows.tobytes() for each in s for rows in each}) for _, _, s in splits)
    row = {
        "what": "label_efficiency_cost",
        "n_images": len(X),
        "n_splits": len(splits),
        "n_fractions": len(curve.mean),
        "n_repeats": 3,
        "n_classifier_fits": n_fits,
        "epochs": options.epochs,
        "pretraining_seconds": round(middle - start, 3),
        "curve_seconds": round(end - middle, 3),
        "classifier_seconds": round(float(curve.fit_times.sum()), 3),
        "transform_test_seconds": round(float(curve.transform_times.sum()), 3),
        "cpu_ratio": round((end_cpu - middle_cpu) / (middle_cpu - start_cpu), 3),
        "date": time.strftime("%Y-%m-%d"),
        **environment(),
    }
    row["ratio"] = round(row["curve_seconds"] / row["pretraining_seconds"], 3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(
        f"{len(splits)} pretrainings: {row['pretraining_seconds']:.1f} s; the whole curve: "
        f"{row['curve_seconds']:.1f} s, {row['ratio']:.2f} times as long "
        f"({row['cpu_ratio']:.2f} by processor time). Added to {options.out}"
    )


if __name__ == "__main__":
    main()
