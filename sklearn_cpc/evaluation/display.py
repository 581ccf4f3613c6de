"""Curves of score against labels, and against images in the pretraining."""

import numpy as np

from ._optional import import_optional
from .curves import as_curves, label_saving
from .label_efficiency import label_efficiency_curve
from .looks import draw_legend, dress_axes, line_look
from .pretraining import pretraining_curve

TICK_INCHES = 0.62  # room for "100,000" at 11 points


class _CurveDisplay:
    """Means of scores with bands over a logarithmic axis; `_x_labels` and `_positions`
    are the subclass's."""

    def __init__(self, curves):
        self.curves = curves

    def _draw(self, ax, x):
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        if x not in self._x_labels:
            raise ValueError(f"x={x!r}: must be one of {sorted(self._x_labels)}; pass one of them.")
        positions = {name: self._positions(curve, x) for name, curve in self.curves.items()}
        if ax is None:
            _, ax = pyplot.subplots(figsize=(8.0, 4.8), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = [
            self._draw_curve(i_curve, name, positions[name])
            for i_curve, name in enumerate(self.curves)
        ]
        dress_axes(ax)
        ax.set_xscale("log")
        names = {curve.get("score_name", "Score") for curve in self.curves.values()}
        ax.set_xlabel(self._x_labels[x], fontsize=12)
        ax.set_ylabel(names.pop() if len(names) == 1 else "Score", fontsize=12)
        best_first = sorted(self.lines_, key=lambda line: -line.get_ydata()[-1])
        draw_legend(ax, best_first, handlelength=3.2)
        self._set_ticks(x)

    def _draw_curve(self, i_curve, name, positions):
        look = line_look(i_curve)
        order = np.argsort(positions, kind="stable")
        mean, std = (np.asarray(self.curves[name][key])[order] for key in ("mean", "std"))
        self.ax_.fill_between(
            positions[order], mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0
        )
        (line,) = self.ax_.plot(positions[order], mean, label=name, **look)
        return line

    def _set_ticks(self, x):
        """As many plain numbers as the finished axis has room for."""
        ticker = import_optional("matplotlib.ticker", type(self).__name__, "plot")
        axis = self.ax_.xaxis
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(
            ticker.FuncFormatter(_percent if x == "fraction" else _plain_number)
        )
        self.figure_.draw_without_rendering()
        width = self.ax_.get_window_extent().width / self.figure_.dpi
        n_decades = np.ptp(np.log10(self.ax_.get_xlim()))
        n_ticks = width / TICK_INCHES
        roomy = [subs for subs in ((1, 2, 5), (1, 3)) if len(subs) * n_decades <= n_ticks]
        axis.set_major_locator(ticker.LogLocator(subs=roomy[0] if roomy else (1,)))


class LabelEfficiencyDisplay(_CurveDisplay):
    """Score against the number of labels, of one or several estimators.

    Make one with :meth:`from_estimators` or :meth:`from_results`.

    Parameters
    ----------
    curves : dict of str to :class:`~sklearn.utils.Bunch`
        Results of :func:`label_efficiency_curve` by name.

    Attributes
    ----------
    ax_ : :class:`matplotlib.axes.Axes`
        Where the curves were drawn.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `ax_`.

    lines_ : list of :class:`matplotlib.lines.Line2D`
        The mean of each curve, in the order of `curves`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.utils import Bunch
    >>> from sklearn_cpc.evaluation import LabelEfficiencyDisplay
    >>> curve = Bunch(name="PCA", label_fractions=[0.1, 1.0], n_labels=[[10, 100]],
    ...               mean=[0.5, 0.8], std=[0.02, 0.01], score_name="Accuracy")
    >>> display = LabelEfficiencyDisplay.from_results(curve).plot()
    >>> display.ax_.get_xlabel()
    'Labelled images (log scale)'
    """

    _x_labels = {
        "n_labels": "Labelled images (log scale)",
        "per_class": "Labelled images per class (log scale)",
        "fraction": "Share of the images that is labelled (log scale)",
    }

    @classmethod
    def from_results(cls, curves):
        """Make a display of finished curves; nothing is drawn yet.

        Parameters
        ----------
        curves : :class:`~sklearn.utils.Bunch` or dict of str to Bunch
            One or several results of :func:`label_efficiency_curve`.

        Returns
        -------
        display : LabelEfficiencyDisplay

        Raises
        ------
        ValueError
            If a curve is one of :func:`pretraining_curve`.
        """
        return cls(as_curves(curves, is_pretraining=False))

    @classmethod
    def from_estimators(cls, estimators, X, y, *, ax=None, x="n_labels", saving=None, **params):
        """Measure estimators by :func:`label_efficiency_curve` and draw the curves.

        Parameters
        ----------
        estimators : estimator, dict of str to estimator or list of (str, estimator)
            What is measured.

        X : array-like of shape (n_samples, ...)
            Images or features.

        y : array-like of shape (n_samples,)
            Classes; -1 means unlabelled.

        ax : :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        x : {"n_labels", "per_class", "fraction"}, default="n_labels"
            As in :meth:`plot`.

        saving : tuple of (str, str), default=None
            As in :meth:`plot`.

        **params : dict
            Keyword parameters of :func:`label_efficiency_curve`, such as `label_fractions`, `cv`
            or `random_state`.

        Returns
        -------
        display : LabelEfficiencyDisplay
        """
        import_optional("matplotlib.pyplot", f"{cls.__name__}.from_estimators", "plot")
        curves = label_efficiency_curve(estimators, X, y, **params)
        return cls.from_results(curves).plot(ax, x=x, saving=saving)

    def plot(self, ax=None, *, x="n_labels", saving=None):
        """Draw means, and bands of one standard deviation over splits and repeats.

        Parameters
        ----------
        ax : :class:`matplotlib.axes.Axes`, default=None
            Where to draw; None makes a new figure. The legend stands to the right of the
            axes: give your own figure `layout="constrained"`.

        x : {"n_labels", "per_class", "fraction"}, default="n_labels"
            What the horizontal axis counts.

        saving : tuple of (str, str), default=None
            Names of a curve and of its reference: an arrow is drawn from the last point of the
            reference to where the curve reaches the same score, with the interval of a bootstrap
            of seed 0, see :func:`label_saving`.

        Returns
        -------
        self : LabelEfficiencyDisplay

        Raises
        ------
        ValueError
            If `x` is unknown or `saving` names no curve.
        ImportError
            If matplotlib is not installed.
        """
        for name in saving or ():
            if name not in self.curves:
                raise ValueError(
                    f"saving={saving!r}: {name!r} is not a curve; pass two of {list(self.curves)}."
                )
        self._draw(ax, x)
        if saving is not None:
            self._draw_saving(saving, x)
        return self

    def _positions(self, curve, x):
        if x == "fraction":
            return np.asarray(curve["label_fractions"], dtype=float)
        n_labels = np.mean(curve["n_labels"], axis=0)
        if x == "n_labels":
            return n_labels
        if "n_classes" not in curve:
            raise ValueError("x='per_class': a curve has no n_classes; pass x='n_labels'.")
        return n_labels / curve["n_classes"]

    def _draw_saving(self, saving, x):
        effects = import_optional("matplotlib.patheffects", type(self).__name__, "plot")
        curve, reference = (self.curves[name] for name in saving)
        result = label_saving(curve, reference, random_state=0)
        last = np.argmax(self._positions(reference, "n_labels"))
        start, height = self._positions(reference, x)[last], reference["mean"][last]
        end = start / result.saving
        if not result.saving_not_reached:
            self.ax_.annotate(
                "",
                xy=(end, height),
                xytext=(start, height),
                arrowprops={"arrowstyle": "-|>", "color": "0.15", "linewidth": 1.6, "shrinkB": 0},
            )
        has_saving = result.saving >= 1 and not result.saving_not_reached
        number, _, interval = result.text.partition(" (")
        text = f"{number} fewer labels" if has_saving else f"label saving {number}"
        label = self.ax_.annotate(
            f"{text}\n({interval}" if interval else text,
            xy=(np.sqrt(start * end) if has_saving else start, height),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center" if has_saving else "right",
            va="bottom",
            fontsize=11,
            fontweight="bold",
            path_effects=[effects.withStroke(linewidth=4, foreground="white")],
        )
        self._make_room(label)

    def _make_room(self, label):
        """Leave the label above the arrow, or put it below, where it covers the fewest lines."""
        places = [(5, "bottom"), (-6, "top")]
        covered = []
        for offset, alignment in places:
            label.set(position=(0, offset), va=alignment)
            self.figure_.draw_without_rendering()
            box, axes_box = label.get_window_extent(), self.ax_.get_window_extent()
            is_outside = box.y1 > axes_box.y1 or box.y0 < axes_box.y0
            covered.append((is_outside, sum(_n_covered(line, box) for line in self.lines_)))
        offset, alignment = places[int(covered[1] < covered[0])]
        label.set(position=(0, offset), va=alignment)


class PretrainingDisplay(_CurveDisplay):
    """Score against the number of images in the pretraining.

    Make one with :meth:`from_estimators` or :meth:`from_results`.

    Parameters
    ----------
    curves : dict of str to :class:`~sklearn.utils.Bunch`
        Results of :func:`pretraining_curve` by name.

    Attributes
    ----------
    ax_ : :class:`matplotlib.axes.Axes`
        Where the curves were drawn.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `ax_`.

    lines_ : list of :class:`matplotlib.lines.Line2D`
        The mean of each curve, in the order of `curves`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.utils import Bunch
    >>> from sklearn_cpc.evaluation import PretrainingDisplay
    >>> curve = Bunch(name="CPC", n_images=[[100, 1000]], n_labels=[50], mean=[0.5, 0.8],
    ...               std=[0.02, 0.01], score_name="Accuracy")
    >>> PretrainingDisplay.from_results(curve).plot().ax_.get_xlabel()
    'Images in the pretraining, 50 of them labelled (log scale)'
    """

    @classmethod
    def from_results(cls, curves):
        """Make a display of finished curves; nothing is drawn yet.

        Parameters
        ----------
        curves : :class:`~sklearn.utils.Bunch` or dict of str to Bunch
            One or several results of :func:`pretraining_curve`.

        Returns
        -------
        display : PretrainingDisplay

        Raises
        ------
        ValueError
            If a curve is one of :func:`label_efficiency_curve`.
        """
        return cls(as_curves(curves, is_pretraining=True))

    @classmethod
    def from_estimators(cls, estimators, X, y, *, ax=None, **params):
        """Measure estimators by :func:`pretraining_curve` and draw the curves.

        Parameters
        ----------
        estimators : estimator, dict of str to estimator or list of (str, estimator)
            What is measured.

        X : array-like of shape (n_samples, ...)
            Images or features.

        y : array-like of shape (n_samples,)
            Classes; -1 means unlabelled.

        ax : :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        **params : dict
            Keyword parameters of :func:`pretraining_curve`, such as `label_fraction`.

        Returns
        -------
        display : PretrainingDisplay
        """
        import_optional("matplotlib.pyplot", f"{cls.__name__}.from_estimators", "plot")
        return cls.from_results(pretraining_curve(estimators, X, y, **params)).plot(ax)

    def plot(self, ax=None):
        """Draw means, and bands of one standard deviation over splits and repeats.

        Parameters
        ----------
        ax : :class:`matplotlib.axes.Axes`, default=None
            Where to draw; None makes a new figure. The legend stands to the right of the
            axes: give your own figure `layout="constrained"`.

        Returns
        -------
        self : PretrainingDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self._draw(ax, "n_images")
        return self

    @property
    def _x_labels(self):
        counts = {round(np.mean(curve["n_labels"])) for curve in self.curves.values()}
        labelled = f"{counts.pop():,}" if len(counts) == 1 else "some"
        return {"n_images": f"Images in the pretraining, {labelled} of them labelled (log scale)"}

    def _positions(self, curve, x):
        return np.mean(curve["n_images"], axis=0)


def _n_covered(line, box):
    """How many of 500 places along a drawn line lie in a box."""
    x, y = line.get_transform().transform(line.get_xydata()).T
    along = np.linspace(0, len(x) - 1, 500)
    points = np.column_stack([np.interp(along, np.arange(len(x)), each) for each in (x, y)])
    return int(((points >= box.min) & (points <= box.max)).all(axis=1).sum())


def _percent(value, position):
    return f"{100 * value:g} %"


def _plain_number(value, position):
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
