"""What happened over the epochs: loss and bound, and the accuracy of probes."""

import numpy as np

from ._optional import import_optional
from .looks import draw_legend, dress_axes, line_look


class TrainingHistoryDisplay:
    """Loss and mutual-information bound over the epochs of a pretraining.

    Make one with :meth:`from_estimator` or :meth:`from_history`.

    Parameters
    ----------
    histories : dict of str to list of dict
        By name, for each epoch a dict with "loss" in nats; "mutual_information", the bound in nats,
        is drawn where every epoch has it.

    Attributes
    ----------
    axes_ : ndarray of :class:`matplotlib.axes.Axes`
        Of the loss and, where it is known, of the bound.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `axes_`.

    lines_ : list of :class:`matplotlib.lines.Line2D`
        The losses, in the order of `histories`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_cpc.evaluation import TrainingHistoryDisplay
    >>> history = [{"loss": 2.0, "mutual_information": 0.8},
    ...            {"loss": 1.5, "mutual_information": 1.3}]
    >>> display = TrainingHistoryDisplay.from_history(history).plot()
    >>> [ax.get_ylabel() for ax in display.axes_]
    ['Loss (nats)', 'Mutual-information bound (nats)']
    """

    def __init__(self, histories):
        self.histories = histories

    @classmethod
    def from_estimator(cls, estimator, *, axes=None):
        """Draw the `history_` of a fitted estimator.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            Fitted, with the attribute `history_`: a list with a dict for each epoch. An epoch 0,
            which `CPCClassifier` has before the training, is not drawn.

        axes : sequence of :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        TypeError
            If an estimator has no `history_`.
        """
        several = _with_history(estimator)
        histories = {
            name: [epoch for epoch in each.history_ if epoch.get("epoch") != 0]
            for name, each in several.items()
        }
        return cls.from_history(histories).plot(axes)

    @classmethod
    def from_history(cls, history):
        """Make a display of finished epochs; nothing is drawn yet.

        Parameters
        ----------
        history : list of dict, or dict of str to list of dict
            One or several, as `history_` has them.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If one has no epoch, or an epoch without "loss".
        """
        histories = dict(history) if isinstance(history, dict) else {"loss": history}
        for name, epochs in histories.items():
            _check_records(name, epochs, "history", ("loss",))
        _check_some(histories, "history")
        return cls(histories)

    def plot(self, axes=None):
        """Draw the loss, that of a guess (dashed), and the bound.

        Parameters
        ----------
        axes : sequence of :class:`matplotlib.axes.Axes`, default=None
            Where to draw the loss and the bound; of a single one the bound is left out. None makes
            a new figure.

        Returns
        -------
        self : TrainingHistoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        has_bound = all(
            "mutual_information" in epoch for epochs in self.histories.values() for epoch in epochs
        )
        n_axes = 2 if has_bound else 1
        if axes is None:
            _, axes = pyplot.subplots(
                1, n_axes, figsize=(4.6 * n_axes, 3.8), layout="constrained", squeeze=False
            )
        self.axes_ = np.ravel(axes)[:n_axes]
        self.figure_ = self.axes_[0].figure
        self.lines_, guesses = [], []
        for i_history in range(len(self.histories)):
            self.lines_.append(self._draw_loss(i_history))
            if has_bound:
                guesses.append(self._draw_bound(i_history))
        for ax, label in zip(
            self.axes_, ("Loss (nats)", "Mutual-information bound (nats)"), strict=False
        ):
            dress_axes(ax)
            _count_epochs(ax)
            ax.set_ylabel(label, fontsize=12)
        handles = self.lines_ if len(self.lines_) > 1 else []
        if handles or guesses:
            handles = [*handles, *guesses[:1]]
            self.axes_[0].legend(handles=handles, fontsize=10, frameon=False, handlelength=3.2)
        return self

    def _draw_loss(self, i_history):
        name, epochs = list(self.histories.items())[i_history]
        numbers, loss = np.arange(1, len(epochs) + 1), [epoch["loss"] for epoch in epochs]
        look = line_look(i_history) | _thin_markers(len(epochs))
        (line,) = self.axes_[0].plot(numbers, loss, label=name, **look)
        return line

    def _draw_bound(self, i_history):
        """The bound, and beside the losses the number that it is counted from: log N."""
        epochs = list(self.histories.values())[i_history]
        loss, bound = (
            np.array([epoch[key] for epoch in epochs]) for key in ("loss", "mutual_information")
        )
        if len(self.axes_) > 1:
            look = line_look(i_history) | _thin_markers(len(epochs))
            self.axes_[1].plot(np.arange(1, len(epochs) + 1), bound, **look)
        guess = (loss + bound).mean()
        return self.axes_[0].axhline(
            guess, color="0.4", linestyle=":", linewidth=1.4, label="a guess, log N"
        )


class ProbeHistoryDisplay:
    """Score of probes over the epochs of a pretraining.

    Make one with :meth:`from_estimator` or :meth:`from_records`.

    Parameters
    ----------
    records : dict of str to list of dict
        By name, dicts with "epoch" and "score".

    Attributes
    ----------
    ax_ : :class:`matplotlib.axes.Axes`
        Where the scores were drawn.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `ax_`.

    lines_ : list of :class:`matplotlib.lines.Line2D`
        The scores, in the order of `records`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_cpc.evaluation import ProbeHistoryDisplay
    >>> records = [{"epoch": 0, "score": 0.3}, {"epoch": 5, "score": 0.6}]
    >>> ProbeHistoryDisplay.from_records(records).plot().ax_.get_ylabel()
    'Accuracy'
    """

    def __init__(self, records):
        self.records = records

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **params):
        """Draw what a `ProbeRecorder` has recorded in the `history_` of a fitted estimator.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            Fitted with a `ProbeRecorder` among its callbacks.

        ax : :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        **params : dict
            Keyword parameters of :meth:`plot`.

        Returns
        -------
        display : ProbeHistoryDisplay

        Raises
        ------
        TypeError
            If an estimator has no `history_`.
        ValueError
            If there is no record in it.
        """
        records = {}
        for name, each in _with_history(estimator).items():
            records[name] = [
                {"epoch": epoch["epoch"], "score": epoch["probe_accuracy"]}
                for epoch in each.history_
                if "probe_accuracy" in epoch
            ]
            if not records[name]:
                raise ValueError(
                    f"estimator: the history_ of {name!r} has no probe_accuracy in its "
                    f"{len(each.history_)} epochs; fit it with callbacks=[ProbeRecorder(X, y)]."
                )
        return cls.from_records(records).plot(ax, **params)

    @classmethod
    def from_records(cls, records):
        """Make a display of recorded scores; nothing is drawn yet.

        Parameters
        ----------
        records : list of dict, or dict of str to list of dict
            One or several lists of dicts with "epoch" and "score"; what else they hold is
            not drawn.

        Returns
        -------
        display : ProbeHistoryDisplay

        Raises
        ------
        ValueError
            If a list is empty, or a record lacks "epoch" or "score".
        """
        records = dict(records) if isinstance(records, dict) else {"probe": records}
        for name, each in records.items():
            _check_records(name, each, "records", ("epoch", "score"))
        _check_some(records, "records")
        return cls(records)

    def plot(self, ax=None, *, baselines=None, score_name="Accuracy"):
        """Draw the scores.

        Parameters
        ----------
        ax : :class:`matplotlib.axes.Axes`, default=None
            Where to draw; None makes a new figure. A legend stands to the right of the axes: give
            your own figure `layout="constrained"`.

        baselines : dict of str to float, default=None
            Scores of rivals, drawn as level lines.

        score_name : str, default="Accuracy"
            For the axis.

        Returns
        -------
        self : ProbeHistoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7.0, 4.2), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = []
        for i_line, (name, records) in enumerate(self.records.items()):
            points = sorted((record["epoch"], record["score"]) for record in records)
            look = line_look(i_line) | _thin_markers(len(points))
            self.lines_ += ax.plot(*zip(*points, strict=True), label=name, **look)
        dress_axes(ax)
        _count_epochs(ax)
        ax.set_ylabel(score_name, fontsize=12)
        levels = [
            ax.axhline(score, label=name, linewidth=1.6)
            for name, score in (baselines or {}).items()
        ]
        for i_line, level in enumerate(levels, start=len(self.lines_)):
            look = line_look(i_line)
            level.set(color=look["color"], linestyle=look["linestyle"])
        if len(self.lines_) + len(levels) > 1:
            draw_legend(ax, [*self.lines_, *levels], handlelength=3.2)
        return self


def _with_history(estimator):
    """Estimators by name, each with a `history_`."""
    several = estimator if isinstance(estimator, dict) else {type(estimator).__name__: estimator}
    for each in several.values():
        if not hasattr(each, "history_"):
            raise TypeError(
                f"estimator={each!r}: has no history_; pass a fitted estimator that keeps one, "
                "of a Pipeline the step: pipe[0]."
            )
    return several


def _check_some(several, parameter):
    if not several:
        raise ValueError(f"{parameter}={{}}: holds nothing to draw; pass one name or more.")


def _check_records(name, records, parameter, keys):
    if not len(records):
        raise ValueError(f"{parameter}: {name!r} is empty; pass at least one epoch.")
    for record in records:
        for key in keys:
            if key not in record:
                raise ValueError(
                    f"{parameter}: {name!r} has an entry with the keys {list(record)}: "
                    f"{key!r} is missing; add it."
                )


def _count_epochs(ax):
    ticker = import_optional("matplotlib.ticker", "plot", "plot")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set_xlabel("Epoch", fontsize=12)


def _thin_markers(n_points):
    """About ten markers along a line, however long."""
    return {"markevery": max(1, n_points // 10)}
