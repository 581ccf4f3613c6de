"""What is read off finished curves: label savings and tables."""

from math import ceil, floor

import numpy as np
from sklearn.utils import Bunch

from ._optional import import_optional


def label_saving(curve, reference):
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

    Returns
    -------
    saving : :class:`~sklearn.utils.Bunch`
        One entry for each point of the reference, in ascending number of labels:

        savings : ndarray of shape (n_points,)
            `n_labels_reference / n_labels_curve`.
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
        saving_open_ended, saving_not_reached : bool
            The flags of the last point.
        text : str
            The last point in words: "12.3x", ">= 20x" or "< 1.0x".

    Raises
    ------
    TypeError
        If an argument is not one curve.

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
    n_curve, scores = sorted_points(curve, "curve")
    n_reference, targets = sorted_points(reference, "reference")
    reached = np.maximum.accumulate(scores)
    n_needed = np.array([_labels_needed(n_curve, reached, target) for target in targets])
    open_ended = targets < reached[0]
    not_reached = targets > reached[-1]
    savings = n_reference / n_needed
    return Bunch(
        savings=savings,
        n_labels_reference=n_reference,
        n_labels_curve=n_needed,
        open_ended=open_ended,
        not_reached=not_reached,
        saving=float(savings[-1]),
        saving_open_ended=bool(open_ended[-1]),
        saving_not_reached=bool(not_reached[-1]),
        text=_saving_text(savings[-1], open_ended[-1], not_reached[-1]),
    )


def sorted_points(curve, name):
    """Mean number of labels and mean score of each point, in ascending number of labels."""
    if not is_curve(curve):
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


def as_curves(curves):
    """One curve or several by name -> several by name."""
    if is_curve(curves):
        return {curves["name"]: curves}
    if not isinstance(curves, dict) or not curves or not all(map(is_curve, curves.values())):
        raise TypeError(
            f"curves={type(curves).__name__}: must be a result of label_efficiency_curve, or a "
            "dict of name to such results with at least one entry."
        )
    return dict(curves)


def _labels_needed(n_labels, reached, target):
    """The first number of labels with this score; the nearest end where the curve has none."""
    above = int(np.searchsorted(reached, target))
    if above == 0 or above == len(reached):
        return n_labels[min(above, len(reached) - 1)]
    below = above - 1
    share = (target - reached[below]) / (reached[above] - reached[below])
    return n_labels[below] * (n_labels[above] / n_labels[below]) ** share


def _saving_text(saving, open_ended, not_reached):
    """A bound is rounded to its own side, so that it stays one."""
    if open_ended:
        return f">= {floor(saving * 10 + 1e-9) / 10:g}x"
    if not_reached:
        return f"< {ceil(saving * 10 - 1e-9) / 10:.1f}x"
    return f"{saving:.1f}x"


def curve_table(curves, *, precision=3):
    """Write curves as a Markdown table that can be read as plain text.

    Parameters
    ----------
    curves : :class:`~sklearn.utils.Bunch` or dict of str to Bunch
        One or several results of :func:`label_efficiency_curve` with the same fractions.

    precision : int, default=3
        Digits after the point.

    Returns
    -------
    table : str
        A row for each curve, a column for each fraction headed by the mean number of labels;
        mean ± standard deviation over splits and repeats.

    Raises
    ------
    ValueError
        If the curves have different numbers of labels.

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
                f"curves: {name!r} has the label numbers {head}, the first curve {first}; they "
                "must be equal, so tabulate them apart."
            )
    rows = [["labels", *first]]
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
    n_labels = np.mean(curve["n_labels"], axis=0)
    points = zip(n_labels, curve["label_fractions"], strict=True)
    return [f"{count:.0f} ({100 * fraction:.3g} %)" for count, fraction in points]


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
        One or several results of :func:`label_efficiency_curve`.

    Returns
    -------
    frame : :class:`pandas.DataFrame`
        Columns `name`, `fraction`, `n_labels`, `split`, `repeat` and `score`.

    Raises
    ------
    ImportError
        If pandas is not installed.
    """
    pandas = import_optional("pandas", "curves_to_frame", "plot")
    records = [
        (name, fraction, n_labels, i_split, i_repeat, score)
        for name, curve in as_curves(curves).items()
        for i_split, row in enumerate(curve["n_labels"])
        for i_fraction, (fraction, n_labels) in enumerate(
            zip(curve["label_fractions"], row, strict=True)
        )
        for i_repeat, score in enumerate(curve["scores"][i_fraction, i_split])
    ]
    columns = ["name", "fraction", "n_labels", "split", "repeat", "score"]
    return pandas.DataFrame.from_records(records, columns=columns)
