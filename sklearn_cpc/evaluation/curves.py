"""What is read off finished curves: label savings and tables."""

from math import ceil, floor

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ._optional import import_optional


def label_saving(curve, reference, *, confidence=0.95, n_bootstrap=1000, random_state=None):
    """Tell how many times fewer labels `curve` needs for the scores that `reference` reaches.

    For each point of the reference, the number of labels at which the mean score of `curve` first
    reaches the same score is read off by linear interpolation over the logarithm of the number of
    labels. The running maximum of the curve is used, so that it never falls.

    Parameters
    ----------
    curve : :class:`~sklearn.utils.Bunch`
        What is praised; a result of :func:`label_efficiency_curve`.

    reference : :class:`~sklearn.utils.Bunch`
        What it is held against; a result on the same images.

    confidence : float, default=0.95
        The share of the bootstrap that the interval holds, in (0, 1).

    n_bootstrap : int, default=1000
        The number of bootstrap samples, at least 1: splits are drawn with replacement, and
        within each split its repeats. Curves with the same numbers of splits and repeats get
        the same draws, so that what is common to both cancels out.

    random_state : int, RandomState instance or None, default=None
        Seeds the bootstrap.

    Returns
    -------
    saving : :class:`~sklearn.utils.Bunch`
        One entry for each point of the reference, in ascending number of labels:

        savings : ndarray of shape (n_points,)
            `n_labels_reference / n_labels_curve`.
        intervals : ndarray of shape (n_points, 2) or None
            Percentile intervals of `savings`; None where one of the curves has a single score for
            each point, or no `scores`. What no resampling can show is not in them: other images,
            and, with one split, another pretraining.
        n_labels_reference : ndarray of shape (n_points,)
            Labels of the reference, mean over splits.
        n_labels_curve : ndarray of shape (n_points,)
            Labels at which `curve` reaches the same score.
        open_ended : ndarray of bool of shape (n_points,)
            `curve` is above already at its fewest labels: the saving is a lower bound.
        not_reached : ndarray of bool of shape (n_points,)
            `curve` does not get there with all its labels: the saving is an upper bound.
        saving : float
            That of the last point, all labels of the reference.
        interval : tuple of float or None
            That of the last point.
        saving_open_ended, saving_not_reached : bool
            The flags of the last point.
        interval_open_ended, interval_not_reached : bool
            Whether the upper end of its interval is a lower bound, and the lower end an upper
            bound.
        text : str
            The last point in words: "12.3x (95 % 9.8 to 15.1)", ">= 20x (95 % 18.2 to >= 20)", and
            without an interval "12.3x", ">= 20x" or "< 1.0x".

    Raises
    ------
    TypeError
        If an argument is not one curve.
    ValueError
        If `confidence` or `n_bootstrap` is out of its bounds, or the curves have different scores.

    Examples
    --------
    >>> from sklearn.utils import Bunch
    >>> from sklearn_cpc.evaluation import label_saving
    >>> ours = Bunch(n_labels=[[10, 100, 1000]], mean=[0.5, 0.7, 0.9])
    >>> pixels = Bunch(n_labels=[[10, 100, 1000]], mean=[0.2, 0.4, 0.6])
    >>> saving = label_saving(ours, pixels)
    >>> saving.text
    '31.6x'
    >>> saving.open_ended
    array([ True,  True, False])
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be in (0, 1); pass for example 0.95.")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap={n_bootstrap}: must be at least 1; pass for example 1000.")
    n_curve, scores = sorted_points(curve, "curve")
    n_reference, targets = sorted_points(reference, "reference")
    _check_same_score(curve, reference)
    n_needed, open_ended, not_reached = _labels_needed(n_curve, scores, targets)
    savings = n_reference / n_needed
    saving = Bunch(
        savings=savings,
        intervals=None,
        n_labels_reference=n_reference,
        n_labels_curve=n_needed,
        open_ended=open_ended,
        not_reached=not_reached,
        saving=float(savings[-1]),
        interval=None,
        saving_open_ended=bool(open_ended[-1]),
        saving_not_reached=bool(not_reached[-1]),
        interval_open_ended=False,
        interval_not_reached=False,
        text=_saving_text(savings[-1], open_ended[-1], not_reached[-1]) + "x",
    )
    samples = _bootstrap(curve, reference, n_bootstrap, check_random_state(random_state))
    if samples is not None:
        _add_interval(saving, n_curve, n_reference, *samples, confidence)
    return saving


def _check_same_score(curve, reference):
    ours, theirs = (each.get("score_name") for each in (curve, reference))
    if None not in (ours, theirs) and ours != theirs:
        raise ValueError(
            f"curve has scores {ours!r} and reference {theirs!r}, which are not to be compared; "
            "measure both with the same scoring."
        )


def _bootstrap(curve, reference, n_bootstrap, rng):
    """Mean scores of both curves, (n_bootstrap, points) each; None where nothing can be drawn."""
    columns = [_columns(each) for each in (curve, reference)]
    if any(each is None for each in columns):
        return None
    shapes = [each.shape[1:] for each in columns]
    draws = [_draws(shapes[0], n_bootstrap, rng)]
    draws.append(draws[0] if shapes[0] == shapes[1] else _draws(shapes[1], n_bootstrap, rng))
    return [
        each.reshape(len(each), -1)[:, drawn].mean(axis=-1).T
        for each, drawn in zip(columns, draws, strict=True)
    ]


def _columns(curve):
    """The scores in ascending number of labels, (points, splits, repeats), if there are several."""
    scores = np.asarray(curve.get("scores", ()))
    if scores.ndim != 3 or scores[0].size < 2:
        return None
    return scores[np.argsort(np.mean(curve["n_labels"], axis=0), kind="stable")]


def _draws(shape, n_bootstrap, rng):
    """Splits, and of each its repeats, with replacement: flat columns, (n_bootstrap, columns)."""
    n_splits, n_repeats = shape
    splits = rng.randint(n_splits, size=(n_bootstrap, n_splits, 1))
    repeats = rng.randint(n_repeats, size=(n_bootstrap, n_splits, n_repeats))
    return (splits * n_repeats + repeats).reshape(n_bootstrap, -1)


def _add_interval(saving, n_curve, n_reference, scores, targets, confidence):
    """Ends that are samples themselves, so that each knows whether it is a bound."""
    sampled = [_labels_needed(n_curve, *each) for each in zip(scores, targets, strict=True)]
    n_needed, is_open, is_short = (np.array(each) for each in zip(*sampled, strict=True))
    savings = n_reference / n_needed
    outside = (1 - confidence) / 2 * len(savings)
    ends = [floor(outside), len(savings) - 1 - floor(outside)]
    # Bounds lie outside of numbers of their own size.
    order = np.lexsort((is_open.astype(int) - is_short, savings), axis=0)[ends]
    saving.intervals = np.take_along_axis(savings, order, axis=0).T
    saving.interval = tuple(saving.intervals[-1].tolist())
    saving.interval_not_reached = bool(is_short[order[0, -1], -1])
    saving.interval_open_ended = bool(is_open[order[1, -1], -1])
    low, high = (
        _saving_text(savings[row, -1], is_open[row, -1], is_short[row, -1]) for row in order[:, -1]
    )
    ends = low if low == high else f"{low} to {high}"
    saving.text += f" ({100 * confidence:g} % {ends})"


def sorted_points(curve, name):
    """Mean number of labels and mean score of each point, in ascending number of labels."""
    if not is_curve(curve) or "n_images" in curve:
        raise TypeError(
            f"{name}={type(curve).__name__}: must be one result of label_efficiency_curve; of a "
            'dict of curves pass one, as in curves["PCA"].'
        )
    n_labels = np.mean(curve["n_labels"], axis=0)
    order = np.argsort(n_labels, kind="stable")
    return n_labels[order], np.asarray(curve["mean"])[order]


def is_curve(curve):
    """Whether this is one curve, not several by name."""
    return isinstance(curve, dict) and "mean" in curve and "n_labels" in curve


def as_curves(curves, is_pretraining=None):
    """One curve or several by name -> several by name; of one kind, where that is said."""
    curves = _by_name(curves)
    wanted, other = "label_efficiency_curve", "pretraining_curve"
    if is_pretraining:
        wanted, other = other, wanted
    for name, curve in curves.items():
        if is_pretraining is not None and ("n_images" in curve) != is_pretraining:
            raise ValueError(
                f"curves: {name!r} is a result of {other}, and here must be one of {wanted}; pass "
                f"it to {'LabelEfficiency' if is_pretraining else 'Pretraining'}Display."
            )
    return curves


def _by_name(curves):
    if is_curve(curves):
        return {curves["name"]: curves}
    if not isinstance(curves, dict) or not curves or not all(map(is_curve, curves.values())):
        raise TypeError(
            f"curves={type(curves).__name__}: must be a result of label_efficiency_curve, or a "
            "dict of name to such results with at least one entry."
        )
    return dict(curves)


def _labels_needed(n_labels, scores, targets):
    """The first number of labels with each score, the nearest end where there is none, and flags.

    Returns
    -------
    n_needed : ndarray of shape (n_targets,)
    open_ended, not_reached : ndarray of bool of shape (n_targets,)
    """
    reached = np.maximum.accumulate(scores)
    above = np.searchsorted(reached, targets).clip(1, len(reached) - 1)
    if len(reached) == 1:
        above = np.zeros(len(targets), dtype=int)
    below = np.maximum(above - 1, 0)
    rise = reached[above] - reached[below]
    share = ((targets - reached[below]) / np.where(rise > 0, rise, 1)).clip(0, 1)
    n_needed = n_labels[below] * (n_labels[above] / n_labels[below]) ** share
    not_reached = targets > reached[-1]  # where the curve may end flat, and leads nowhere
    return np.where(not_reached, n_labels[-1], n_needed), targets < reached[0], not_reached


def _saving_text(saving, open_ended, not_reached):
    """A bound is rounded to its own side, so that it stays one."""
    if open_ended:
        return f">= {floor(saving * 10 + 1e-9) / 10:g}"
    if not_reached:
        return f"< {ceil(saving * 10 - 1e-9) / 10:.1f}"
    return f"{saving:.1f}"


def curve_table(curves, *, precision=3):
    """Write curves as a Markdown table that can be read as plain text.

    Parameters
    ----------
    curves : :class:`~sklearn.utils.Bunch` or dict of str to Bunch
        One or several results of :func:`label_efficiency_curve` with the same fractions, or of
        :func:`pretraining_curve`.

    precision : int, default=3
        Digits after the point.

    Returns
    -------
    table : str
        A row for each curve, a column for each fraction headed by the mean number of labels, or
        of images in the pretraining; mean ± standard deviation over splits and repeats.

    Raises
    ------
    ValueError
        If the curves have different numbers of labels or images.

    Examples
    --------
    >>> from sklearn.utils import Bunch
    >>> from sklearn_cpc.evaluation import curve_table
    >>> curve = Bunch(name="PCA", label_fractions=[0.1, 1.0], n_labels=[[10, 100]],
    ...               mean=[0.5, 0.75], std=[0.02, 0.01])
    >>> print(curve_table(curve))
    | labels |     10 (10 %) |   100 (100 %) |
    | :----- | ------------: | ------------: |
    | PCA    | 0.500 ± 0.020 | 0.750 ± 0.010 |
    """
    curves = as_curves(curves)
    heads = {name: _column_heads(curve) for name, curve in curves.items()}
    first = next(iter(heads.values()))
    for name, head in heads.items():
        if head != first:
            raise ValueError(
                f"curves: {name!r} has the columns {head}, the first curve {first}; they must "
                "be equal, so tabulate them apart."
            )
    rows = [list(first)]
    for name, curve in curves.items():
        # One score has no spread, which "± 0.000" would deny.
        is_one = "scores" in curve and np.size(curve["scores"][0]) == 1 and not np.any(curve["std"])
        cells = [f"{mean:.{precision}f}" for mean in curve["mean"]]
        if not is_one:
            spreads = (f" ± {std:.{precision}f}" for std in curve["std"])
            cells = [cell + spread for cell, spread in zip(cells, spreads, strict=True)]
        rows.append([name, *cells])
    return _markdown(rows)


def _column_heads(curve):
    what, fractions = ("labels", "label_fractions")
    if "n_images" in curve:
        what, fractions = ("images", "unlabeled_fractions")
    counts = np.mean(curve[f"n_{what}"], axis=0)
    points = zip(counts, curve[fractions], strict=True)
    return [what, *(f"{count:.0f} ({100 * fraction:.3g} %)" for count, fraction in points)]


def _markdown(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        for row in [rows[0], rules, *rows[1:]]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def curves_to_frame(curves):
    """Lay curves out as a tidy data frame, one score per row.

    Parameters
    ----------
    curves : :class:`~sklearn.utils.Bunch` or dict of str to Bunch
        One or several results of :func:`label_efficiency_curve` or :func:`pretraining_curve`.

    Returns
    -------
    frame : :class:`pandas.DataFrame`
        Columns `name`, `fraction`, `n_images` (of :func:`pretraining_curve`), `n_labels`, `split`,
        `repeat`, `score`, and in seconds `fit_time` and `score_time` of the classifier and
        `transform_fit_time` of the encoder; NaN where a curve has no times.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    pandas = import_optional("pandas", "curves_to_frame", "plot")
    records = [
        record for name, curve in as_curves(curves).items() for record in _records(name, curve)
    ]
    return pandas.DataFrame.from_records(records)


def _records(name, curve):
    shape = np.shape(curve["scores"])
    is_pretraining = "n_images" in curve
    fractions = np.asarray(curve["unlabeled_fractions" if is_pretraining else "label_fractions"])
    columns = {"fraction": fractions[:, np.newaxis, np.newaxis]}
    n_labels = np.asarray(curve["n_labels"]).T
    if is_pretraining:
        columns["n_images"] = curve["n_images"].T[..., np.newaxis]
    columns["n_labels"] = n_labels[..., np.newaxis]
    columns["split"], columns["repeat"] = np.indices(shape)[1:]
    columns["score"] = curve["scores"]
    for key in ("fit_time", "score_time", "transform_fit_time"):
        times = np.asarray(curve.get(f"{key}s", np.nan))
        columns[key] = times[:, np.newaxis] if times.ndim == 1 else times  # one for each split
    columns = {key: np.broadcast_to(values, shape) for key, values in columns.items()}
    for cell in np.ndindex(shape):
        yield {"name": name} | {key: values[cell] for key, values in columns.items()}
