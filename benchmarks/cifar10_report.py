"""CIFAR-10: what the runs of cifar10.py gave, over seeds, and against minutes of pretraining.

    python benchmarks/cifar10.py ARCHIVE --setting cpu --seed 0
    python benchmarks/cifar10.py ARCHIVE --setting cpu --epochs 9 --only "CPC, quadrants, mirrored"
    python benchmarks/cifar10_report.py

Runs of the first kind, with several seeds, make a table of means and standard deviations; runs of
the second kind, with several `--epochs`, add points to a picture: each is a whole pretraining with
a schedule of its own, on the same images, and they belong on as many cores as the first. SimCLR is
drawn at its own minutes, the rivals without a pretraining as lines. What others published is for
other numbers of labels and other machines, and is marked with both; where they say no time, it is
a short line at the edge.
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
# Minutes at most or None, accuracy, and what it is: Lightning Bolts' documentation of its CPC v2,
# "up to 24 hours" on one V100; A. Coates, H. Lee and A. Ng, "An Analysis of Single-Layer Networks
# in Unsupervised Feature Learning", AISTATS 2011; MaekTec's project on GitHub, one run.
PUBLISHED = [
    (
        24 * 60,
        0.8452,
        "Lightning Bolts CPC v2, 50,000 labels,\n100,352 features, V100, 1,000 epochs",
    ),
    (None, 0.796, "Coates et al., k-means 4,000, 50,000 labels"),
    (None, 0.547, "MaekTec CPC, frozen, 4,500 labels"),
]
SIMCLR = "SimCLR"
# Seconds of the process add up all cores; CPC's seconds are by the clock, on so many.
CORES = {"cpu": 2, "gpu": 1}
TITLES = {
    "cpu": "CIFAR-10, 10,000 unlabelled images, two cores of a CPU",
    "gpu": "CIFAR-10, 50,000 unlabelled images, one GPU",
}


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
    """[(minutes, epochs, {n_labels: accuracy})] of each pretraining whose features were measured.

    Of runs with the same number of epochs the last one counts.
    """
    points = {}
    for run, row in rows:
        settings = run["cpc"]
        is_ours = settings.get("encoder") == "dictionary" and settings.get("transform_flip")
        if (row["seed"], row["features"]) != (seed, features) or not is_ours:
            continue
        scores = dict(zip(row["n_labels"], (s[0] for s in row["scores"]), strict=True))
        if features.startswith(SIMCLR):
            points[0] = (simclr_minutes(run), None, scores)
        elif not features.startswith("CPC") or run["seconds"]:
            epochs = settings["max_epochs"]
            points[epochs] = (run["seconds"] / 60, epochs, scores)
    return sorted(points.values(), key=lambda point: point[0])


def simclr_minutes(run):
    settings = run["simclr"]
    cores = CORES[run["setting"]] if settings["clock"] == "process" else 1
    return settings["seconds"] / 60 / cores


def note(ax, text, place, offset, **kwargs):
    ax.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=9, **kwargs)


def draw(ax, points, lines, simclr):
    """CPC's curve for each number of labels, lines for {name: scores}, and SimCLR's point."""
    for i, n in enumerate(sorted(points[0][2])):
        look = line_look(i)
        color = look["color"]
        minutes, scores = zip(*[(m, s[n]) for m, _, s in points], strict=True)
        ax.plot(minutes, scores, **look)
        # Of two labels that may meet, each is on its own side.
        is_behind = any(row[n] > scores[-1] for _, _, row in simclr)
        offset = (8, -9 if is_behind else 0)
        note(ax, f"CPC, {n:,} labels", (minutes[-1], scores[-1]), offset, color=color)
        for name, row in lines.items():
            ax.axhline(row[n], color=color, linestyle=":", linewidth=1.2)
            # Between the curves and what is published.
            note(ax, f"{name}, {n:,} labels", (60, row[n]), (0, 3), color=color)
        for x, _, row in simclr:
            ax.plot(x, row[n], **look | {"markerfacecolor": "white", "markeredgecolor": color})
            offset = (8, 3 if is_behind else -12)
            note(ax, f"SimCLR, {n:,} labels", (x, row[n]), offset, color=color)
    highest = max(points[0][2])
    for minutes, epochs, scores in points:
        note(ax, f"{epochs} epochs", (minutes, scores[highest]), (0, 12), ha="center")


def draw_published(ax, right):
    """Stars at their minutes; where no time is known, a short line at the right edge."""
    for minutes, accuracy, text in PUBLISHED:
        if minutes is None:
            ax.plot([0.6 * right, right], [accuracy] * 2, "k", linewidth=2.5)
            text = f"{text},\ntime not published"
            note(ax, text, (right, accuracy), (0, -4), ha="right", va="top")
        else:
            ax.plot(minutes, accuracy, "k*", markersize=12)
            note(ax, text, (minutes, accuracy), (-10, 0), ha="right", va="center")


def finish(ax):
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
    parser.add_argument("--rivals", nargs="*", default=["patch k-means 1024, quadrants, mirrored"])
    parser.add_argument("--simclr", default="SimCLR, quadrants, mirrored")
    parser.add_argument("--out", type=Path, default=RESULTS / "cifar10_time.png")
    options = parser.parse_args()
    rows = list(read_rows(options.results, options.setting))
    print("Accuracy on test images, mean ± standard deviation over seeds\n")
    print(table(rows, options.epochs) + "\n")
    points = points_of(rows, options.seed, options.features)
    if not points:
        raise SystemExit(f"{options.results} has no {options.features!r}; run the second command.")
    for minutes, epochs, scores in points:
        print(f"{minutes:6.1f} minutes, {epochs} epochs  {scores}")
    lines = {
        name.split(",")[0]: found[-1][2]
        for name in options.rivals
        if (found := points_of(rows, options.seed, name))
    }
    simclr = points_of(rows, options.seed, options.simclr)
    figure, ax = plt.subplots(figsize=(9, 6), layout="constrained")
    ax.set_xscale("log")
    right = 2 * PUBLISHED[0][0]
    ax.set_xlim(min(1, points[0][0] / 2), right)
    draw(ax, points, lines, simclr)
    draw_published(ax, right)
    finish(ax)
    ax.set_title(TITLES[options.setting])
    figure.savefig(options.out, dpi=150)
    print(f"Drawn in {options.out}")


if __name__ == "__main__":
    main()
