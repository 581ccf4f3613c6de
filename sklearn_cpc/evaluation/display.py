"""Curves of score against labels, legible in grey print and for the colour-blind."""

import numpy as np

from ._optional import import_optional
from .curves import as_curves, label_saving
from .label_efficiency import label_efficiency_curve

# Okabe and Ito (2008), "Color Universal Design", without the yellow that white paper swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINE_STYLES = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)), (0, (4, 1, 1, 1, 1, 1)))
TICK_INCHES = 0.62  # room for "100,000" at 11 points
X_LABELS = {
    "n_labels": "Labelled images (log scale)",
    "fraction": "Share of the images that is labelled (log scale)",
}


class LabelEfficiencyDisplay:
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

    def __init__(self, curves):
        self.curves = curves

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
        """
        return cls(as_curves(curves))

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

        x : {"n_labels", "fraction"}, default="n_labels"
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

        x : {"n_labels", "fraction"}, default="n_labels"
            What the horizontal axis counts.

        saving : tuple of (str, str), default=None
            Names of a curve and of its reference: an arrow is drawn from the last point of the
            reference to where the curve reaches the same score, see :func:`label_saving`.

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
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        if x not in X_LABELS:
            raise ValueError(f"x={x!r}: must be one of {sorted(X_LABELS)}; pass one of them.")
        for name in saving or ():
            if name not in self.curves:
                raise ValueError(
                    f"saving={saving!r}: {name!r} is not a curve; pass two of {list(self.curves)}."
                )
        if ax is None:
            _, ax = pyplot.subplots(figsize=(8.0, 4.8), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = [
            self._draw_curve(i_curve, name, x) for i_curve, name in enumerate(self.curves)
        ]
        self._dress_axes(x)
        self._draw_legend()
        self._set_ticks(x)
        if saving is not None:
            self._draw_saving(saving, x)
        return self

    def _draw_curve(self, i_curve, name, x):
        curve = self.curves[name]
        color = COLORS[i_curve % len(COLORS)]
        positions = _positions(curve, x)
        order = np.argsort(positions, kind="stable")
        mean, std = (np.asarray(curve[key])[order] for key in ("mean", "std"))
        self.ax_.fill_between(
            positions[order], mean - std, mean + std, color=color, alpha=0.15, linewidth=0
        )
        (line,) = self.ax_.plot(
            positions[order],
            mean,
            label=name,
            color=color,
            linestyle=LINE_STYLES[i_curve % len(LINE_STYLES)],
            linewidth=2.0,
            marker=MARKERS[i_curve % len(MARKERS)],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
        )
        return line

    def _dress_axes(self, x):
        ax = self.ax_
        ax.set_xscale("log")
        names = {curve.get("score_name", "Score") for curve in self.curves.values()}
        ax.set_xlabel(X_LABELS[x], fontsize=12)
        ax.set_ylabel(names.pop() if len(names) == 1 else "Score", fontsize=12)
        ax.tick_params(labelsize=11)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)

    def _draw_legend(self):
        """Beside the axes, where it hides no curve, in the order of the line ends."""
        best_first = sorted(self.lines_, key=lambda line: -line.get_ydata()[-1])
        self.ax_.legend(
            handles=best_first,
            fontsize=11,
            frameon=False,
            handlelength=3.2,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )

    def _set_ticks(self, x):
        """As many plain numbers as the finished axis has room for."""
        ticker = import_optional("matplotlib.ticker", type(self).__name__, "plot")
        axis = self.ax_.xaxis
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(
            ticker.StrMethodFormatter("{x:,.0f}")
            if x == "n_labels"
            else ticker.FuncFormatter(_percent)
        )
        self.figure_.draw_without_rendering()
        width = self.ax_.get_window_extent().width / self.figure_.dpi
        n_decades = np.ptp(np.log10(self.ax_.get_xlim()))
        n_ticks = width / TICK_INCHES
        roomy = [subs for subs in ((1, 2, 5), (1, 3)) if len(subs) * n_decades <= n_ticks]
        axis.set_major_locator(ticker.LogLocator(subs=roomy[0] if roomy else (1,)))

    def _draw_saving(self, saving, x):
        effects = import_optional("matplotlib.patheffects", type(self).__name__, "plot")
        curve, reference = (self.curves[name] for name in saving)
        result = label_saving(curve, reference)
        last = np.argmax(_positions(reference, "n_labels"))
        start, height = _positions(reference, x)[last], reference["mean"][last]
        end = start / result.saving
        if not result.saving_not_reached:
            self.ax_.annotate(
                "",
                xy=(end, height),
                xytext=(start, height),
                arrowprops={"arrowstyle": "-|>", "color": "0.15", "linewidth": 1.6, "shrinkB": 0},
            )
        has_saving = result.saving >= 1 and not result.saving_not_reached
        self.ax_.annotate(
            f"{result.text} fewer labels" if has_saving else f"label saving {result.text}",
            xy=(np.sqrt(start * end) if has_saving else start, height),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center" if has_saving else "right",
            va="bottom",
            fontsize=11,
            fontweight="bold",
            path_effects=[effects.withStroke(linewidth=4, foreground="white")],
        )


def _percent(value, position):
    return f"{100 * value:g} %"


def _positions(curve, x):
    if x == "n_labels":
        return np.mean(curve["n_labels"], axis=0)
    return np.asarray(curve["label_fractions"], dtype=float)
