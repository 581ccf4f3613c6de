"""CIFAR-10: what the runs of cifar10.py gave, over seeds, and against minutes of pretraining.

    python benchmarks/cifar10.py ARCHIVE --setting cpu --seed 0
    python benchmarks/cifar10.py ARCHIVE --setting cpu --epochs 9 --only "CPC, quadrants, mirrored"
    python benchmarks/cifar10_report.py

Runs of the first kind, with several seeds, make a table of means and standard deviations; runs of
the second kind, with several `--epochs`, add points to a picture: each is a whole pretraining with
a schedule of its own, on the same images. What others published is for other numbers of labels and
other machines, and is marked with both.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt

from sklearn_cpc.evaluation.looks import dress_axes, line_look

RESULTS = Path(__file__).parent / "results"
# Minutes at most, accuracy, and what it is: Lightning Bolts' documentation of its CPC v2, "up to
# 24 hours" on one V100.
PUBLISHED = [
    (
        24 * 60,
        0.8452,
        "Lightning Bolts CPC v2, 50,000 labels,\n100,352 features, V100, 1,000 epochs",
    ),
]


def read_rows(path, setting):
    """(run, row) for each set of features that was scored on test images."""
    run = {}
    for row in map(json.loads, path.read_text().splitlines()):
        if row["what"] == "run":
            run = row
        elif row["setting"] == setting and run.get("scored_on") == "test images":
            yield run, row


def table(rows, epochs):
    """Mean and standard deviation over seeds of the runs with so many epochs, in Markdown."""
    found = {}
    for run, row in rows:
        settings, name = run["cpc"], row["features"]
        is_same = settings["max_epochs"] == epochs and settings.get("transform_flip")
        # The alternatives do not depend on the epochs.
        if settings.get("encoder") == "dictionary" and (is_same or not name.startswith("CPC")):
            counts = tuple(row["n_labels"])
            found.setdefault(name, {})[row["seed"]] = [s[0] for s in row["scores"]]
    width = max(map(len, found))
    lines = [[f"{'labels':{width}}", *(f"{n:>13,}" for n in counts), "seeds"]]
    lines.append([":" + "-" * (width - 1), *("-" * 12 + ":" for _ in counts), "----:"])
    for name, by_seed in sorted(found.items(), key=_last_mean, reverse=True):
        scores = np.array(list(by_seed.values()))
        n = len(scores)
        spread = scores.std(0, ddof=1) if n > 1 else [None] * len(counts)
        cells = [
            f"{mean:.3f} ± {std:.3f}" if n > 1 else f"{mean:13.3f}"
            for mean, std in zip(scores.mean(0), spread, strict=True)
        ]
        lines.append([f"{name:{width}}", *cells, f"{n:5}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _last_mean(item):
    return np.mean([scores[-1] for scores in item[1].values()])


def points_of(rows, seed, features):
    """(minutes, {n_labels: accuracy}) of each pretraining whose features were measured."""
    points = {}
    for run, row in rows:
        if (row["seed"], row["features"]) == (seed, features):
            scores = dict(zip(row["n_labels"], (s[0] for s in row["scores"]), strict=True))
            points[run["seconds"] / 60] = scores
    return sorted(points.items())


def note(ax, text, place, offset, **kwargs):
    ax.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=9, **kwargs)


def draw(ax, points, rivals):
    right = ax.get_xlim()[1]
    for i, n in enumerate(sorted(points[0][1])):
        minutes, scores = zip(*[(m, s[n]) for m, s in points], strict=True)
        look = line_look(i)
        color = look["color"]
        ax.plot(minutes, scores, **look)
        note(ax, f"CPC, {n:,} labels", (minutes[-1], scores[-1]), (8, -3), color=color)
        for name, row in rivals.items():
            ax.axhline(row[n], color=color, linestyle=":", linewidth=1.2)
            note(ax, f"{name}, {n:,} labels", (right, row[n]), (-4, 3), ha="right", color=color)
    for minutes, accuracy, text in PUBLISHED:
        ax.plot(minutes, accuracy, "k*", markersize=12)
        note(ax, text, (minutes, accuracy), (-10, 0), ha="right", va="center")
    ax.set_xlabel("Minutes of pretraining (log scale)")
    ax.set_ylabel("Accuracy on test images")
    ax.xaxis.set_major_formatter("{x:g}")
    dress_axes(ax)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "cifar10.jsonl")
    parser.add_argument("--setting", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--epochs", type=int, default=36, help="of the table")
    parser.add_argument("--seed", type=int, default=0, help="of the picture")
    parser.add_argument("--features", default="CPC, quadrants, mirrored")
    parser.add_argument("--rival", default="patch k-means 1024, quadrants, mirrored")
    parser.add_argument("--out", type=Path, default=RESULTS / "cifar10_time.png")
    options = parser.parse_args()
    rows = list(read_rows(options.results, options.setting))
    print("Accuracy on test images, mean ± standard deviation over seeds\n")
    print(table(rows, options.epochs) + "\n")
    points = points_of(rows, options.seed, options.features)
    rivals = points_of(rows, options.seed, options.rival)
    if not points:
        raise SystemExit(f"{options.results} has no {options.features!r}; run the second command.")
    for minutes, scores in points:
        print(f"{minutes:6.1f} minutes  {scores}")
    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    ax.set_xscale("log")
    ax.set_xlim(min(1, points[0][0] / 2), 2 * PUBLISHED[0][0])
    draw(ax, points, {options.rival.split(",")[0]: rivals[-1][1]} if rivals else {})
    ax.set_title("CIFAR-10, 10,000 unlabelled images, a CPU")
    figure.savefig(options.out, dpi=150)
    print(f"Drawn in {options.out}")


if __name__ == "__main__":
    main()
