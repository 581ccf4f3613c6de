"""What the commands do."""

import ast
import csv
import difflib
import re
import sys
import time
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..datasets import image_folder
from ..estimators import CPCTransformer, recipe
from ..estimators.files import written_whole
from ..estimators.inputs import opened
from ..evaluation import (
    LabelEfficiencyDisplay,
    curve_table,
    label_efficiency_curve,
    label_saving,
)
from ..evaluation._optional import import_optional
from ..training import LazyPart, workers_ended
from .labels import read_labels
from .outputs import (
    FEATURE_FILES,
    UsageError,
    check_names,
    check_output,
    check_picture,
    features_to,
)

__all__ = ["COMMANDS", "InterruptedFitError", "version"]

IMAGES_AT_ONCE = 2048  # whose features are in memory at a time
# What a fitted model does not have from its training.
READ_AFTER_FIT = {
    "broken_images",
    "device",
    "mixed_channels",
    "n_jobs",
    "n_workers",
    "output",
    "pooling",
    "resize",
    "transform_flip",
    "transform_stride",
    "verbose",
    "worker_kind",
}


class InterruptedFitError(Exception):
    """Ctrl-C ended the training, and what was learned by then is written."""


def version():
    return import_module("sklearn_cpc").__version__


def fit(options):
    """Learn from a folder, write the model."""
    output = check_output(options.output)
    import_optional("safetensors", "sklearn-cpc fit", "safetensors")
    named = {"max_epochs": options.epochs, "random_state": options.seed, "verbose": 1}
    params = recipe(options.recipe) if options.recipe else {}
    params |= {name: value for name, value in named.items() if value is not None}
    if options.resume is not None:
        params["checkpoint"] = options.resume
    estimator = _with_settings(CPCTransformer(), params | _settings(options))
    paths = image_folder(options.folder).paths
    _tell(f"{len(paths)} images in {options.folder}")
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        interrupted = _note_interruption()
        estimator.fit(paths)
    estimator.save(output)
    height, width, n_channels = estimator.image_shape_
    _tell(
        f"{output}: {estimator.n_iter_} epochs on images of {height}x{width} pixels and "
        f"{n_channels} channels{_end_of(estimator)}"
    )
    if interrupted:
        raise InterruptedFitError(f"interrupted; {output} has what was learned by then.")


def _end_of(estimator):
    if not estimator.history_:
        return ""
    last = estimator.history_[-1]
    return f", loss {last['loss']:.3f}, bound {last['mutual_information']:.3f} nats"


def _note_interruption():
    """A list that is no longer empty when training warns that it was interrupted."""
    noted, show = [], warnings.showwarning

    def show_and_note(message, *args, **kwargs):
        if str(message).startswith("Training was interrupted"):
            noted.append(message)
        else:
            show(message, *args, **kwargs)

    warnings.showwarning = show_and_note
    return noted


def transform(options):
    """Write the features of a folder."""
    output = check_output(options.output)
    if output.suffix not in FEATURE_FILES:
        raise UsageError(f"-o {output} must end in one of {', '.join(FEATURE_FILES)}.")
    if output.suffix == ".npy":
        check_output(output.with_suffix(".paths.csv"))
    estimator = _loaded(options)
    paths = image_folder(options.folder).paths
    names = check_names(_relative(paths, options.folder))
    columns = estimator.get_feature_names_out()
    n_skipped = 0
    with workers_ended():
        images = opened(estimator, paths)  # what would end the work is refused before it
        with features_to(output, len(paths), columns) as write:
            for rows, features in _features(estimator, images):
                write(names[rows], features)
                n_skipped += np.isnan(features[:, 0]).sum()
    if output.suffix == ".npy":
        _write_csv(output.with_suffix(".paths.csv"), ["path"], ([name] for name in names))
    skipped = f"; {n_skipped} cannot be read and have NaN" if n_skipped else ""
    _tell(f"{output}: {len(columns)} features of {len(paths)} images{skipped}")


def curve(options):
    """Print, write and draw accuracy against the number of labels."""
    output = check_output(options.output)
    check_picture(output.with_suffix(".png"), options.folder)
    if options.labels and output.resolve() == Path(options.labels).resolve():
        raise UsageError(f"-o {output} is the file of --labels; pass another name.")
    estimator = _loaded(options)
    paths, labels = _labelled(options)
    untrained = clone(estimator).set_params(
        max_epochs=0, random_state=options.seed, device=_settings(options).get("device", "auto")
    )
    settings = {"cv": options.cv, "n_repeats": options.repeats, "random_state": options.seed}
    if options.fractions:
        settings["label_fractions"] = tuple(_fraction(each) for each in options.fractions)
    # What is wrong with the labels or the settings is told before the images are embedded.
    _curve(np.zeros((len(labels), 1)), labels, settings, DummyClassifier())
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    curves = {}
    with workers_ended():
        images = opened(estimator, paths)
        for name, each in (("CPC", estimator), ("untrained encoder", untrained.fit(paths))):
            features = np.concatenate([block for _, block in _features(each, images)])
            curves[name] = _curve(features, labels, settings, classifier)
    print(curve_table(curves))
    saving = label_saving(*curves.values(), random_state=0)
    print(f"\nFewer labels for the best accuracy of the untrained encoder: {saving.text}")
    _write_curves(output, curves)
    _draw(output.with_suffix(".png"), curves)


def _curve(features, labels, settings, classifier):
    kept = np.isfinite(features).all(axis=1)
    with redirect_stdout(sys.stderr):
        return label_efficiency_curve(classifier, features[kept], labels[kept], **settings)


def _fraction(number):
    """A share, or a whole number of labels above 1."""
    return int(number) if number > 1 and number == int(number) else number


COMMANDS = {"fit": fit, "transform": transform, "curve": curve}


def _settings(options):
    """Parameters of the transformer that are given in any command."""
    named = {
        "resize": options.resize,
        "n_workers": options.workers,
        "device": options.device,
        # Of one run, whatever the model's was.
        "broken_images": "skip" if options.skip_broken else "raise",
    }
    settings = {name: value for name, value in named.items() if value is not None}
    for text in options.set:
        name, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text} must be NAME=VALUE, such as pooling=quadrants.")
        settings[name.strip()] = _value(value.strip())
    return settings


def _value(text):
    """What Python writes so, a number, a tuple, True, ..., also without quotes; else the text."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        are_names = re.fullmatch(r"[\w,-]+,[\w-]+", text)
        return tuple(map(_value, text.split(","))) if are_names else text


def _with_settings(estimator, settings):
    known = list(estimator.get_params(deep=False))
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" did you mean {near[0]}?" if near else " see help(CPCTransformer)."
            raise UsageError(f"--set {name}: CPCTransformer has no such parameter;{hint}")
    return estimator.set_params(**settings)


def _loaded(options):
    path = Path(options.model)
    if not path.is_file():
        raise ValueError(f"{path} is no file; pass a model that sklearn-cpc fit has written.")
    settings = _settings(options)
    # The device is where the weights are put, not a parameter of what is loaded.
    estimator = CPCTransformer.load(path, settings.pop("device", "auto"))
    _with_settings(estimator, settings)
    if learned := sorted(settings.keys() - READ_AFTER_FIT):
        raise UsageError(
            f"--set {learned[0]}: {path} has it from its training; fit anew, or set one of "
            f"{', '.join(sorted(READ_AFTER_FIT))}."
        )
    return estimator


def _relative(paths, folder):
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def _features(estimator, images):
    """(rows, features) of blocks of images, with the progress on stderr."""
    start = time.monotonic()
    for first in range(0, len(images), IMAGES_AT_ONCE):
        rows = slice(first, first + IMAGES_AT_ONCE)
        with warnings.catch_warnings():
            # They are counted, and told of in the end.
            warnings.filterwarnings("ignore", ".*their features are NaN", RuntimeWarning)
            features = np.asarray(estimator.transform(LazyPart(images, rows)))
        yield rows, features.reshape(len(features), -1)
        n_done = min(rows.stop, len(images))
        rate = n_done / (time.monotonic() - start)
        left = (len(images) - n_done) / rate
        _tell(f"{n_done}/{len(images)} images  {rate:.0f} images/s  {left:.0f} s left")


def _labelled(options):
    """Paths and labels of the images that have one."""
    folder = image_folder(options.folder)
    if options.labels is None:
        has_label = folder.labels >= 0
        if not has_label.any():
            raise ValueError(
                f"{options.folder} has no folders for classes; pass --labels, a CSV file with the "
                "columns path and label."
            )
        names = np.array(folder.class_names, dtype=object)
        return folder.paths[has_label], names[folder.labels[has_label]].astype(str)
    by_name = read_labels(options.labels)
    names = _relative(folder.paths, options.folder)
    known = set(names)
    if unknown := [name for name in by_name if name not in known]:
        raise ValueError(
            f"--labels {options.labels} has {unknown[0]}, which is no image of {options.folder} "
            f"({len(unknown)} such); write paths as they are below that folder."
        )
    rows = [row for row, name in enumerate(names) if name in by_name]
    if not rows:
        raise ValueError(f"--labels {options.labels} has no label; write some.")
    return folder.paths[rows], np.array([by_name[names[row]] for row in rows])


def _write_curves(output, curves):
    columns = ["name", "fraction", "n_labels", "mean", "std", "n_scores"]
    rows = (
        [name, fraction, f"{n_labels:g}", f"{mean:.6f}", f"{std:.6f}", scores.size]
        for name, each in curves.items()
        for fraction, n_labels, mean, std, scores in zip(
            each.label_fractions,
            np.mean(each.n_labels, axis=0),
            each.mean,
            each.std,
            each.scores,
            strict=True,
        )
    )
    _write_csv(output, columns, rows)
    _tell(f"{output}: the table")


def _write_csv(path, columns, rows):
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([columns, *rows])


def _draw(path, curves):
    try:
        figure = import_module("matplotlib.figure").Figure(layout="constrained")
    except ImportError:
        _tell('no picture: matplotlib is not installed; run: pip install "sklearn-cpc[plot]"')
        return
    LabelEfficiencyDisplay.from_results(curves).plot(ax=figure.subplots())
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)
    _tell(f"{path}: the picture")


def _tell(text):
    print(text, file=sys.stderr, flush=True)
