"""What lies near what: neighbours of images, and a map of all of them."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import _safe_indexing, check_array, check_random_state, column_or_1d

from ._optional import import_optional
from .looks import COLORS, MARKERS, draw_legend
from .pixels import LONGEST, as_seen, shown_images
from .unlabeled import refuse_missing

MAPS = ("pca", "tsne")


class NearestNeighborsDisplay:
    """Images beside those that are nearest to them in a space of features.

    Make one with :meth:`from_embeddings` or :meth:`from_estimator`.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, height, width, 3)
        Images in the left column, in [0, 1].

    neighbors : ndarray of shape (n_queries, n_neighbors, height, width, 3)
        Their neighbours, the nearest first.

    query_labels : sequence of length n_queries or None
        Labels of the queries.

    neighbor_labels : sequence of sequences or None
        Labels of the neighbours.

    indices : ndarray of shape (n_queries, n_neighbors)
        Rows of the neighbours.

    Attributes
    ----------
    axes_ : ndarray of shape (n_queries, n_neighbors + 1)
        Of the images.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `axes_`.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc.evaluation import NearestNeighborsDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> display = NearestNeighborsDisplay.from_embeddings(
    ...     X[:3], X[:3], X[100:], X[100:], y_query=y[:3], y=y[100:], n_neighbors=5)
    >>> display.plot().axes_.shape
    (3, 6)
    """

    def __init__(self, queries, neighbors, query_labels, neighbor_labels, indices):
        self.queries = queries
        self.neighbors = neighbors
        self.query_labels = query_labels
        self.neighbor_labels = neighbor_labels
        self.indices = indices

    @classmethod
    def from_embeddings(
        cls,
        X_query,
        Z_query,
        X,
        Z,
        *,
        y_query=None,
        y=None,
        n_neighbors=6,
        metric="cosine",
        image_shape=None,
        channels="auto",
    ):
        """Find the neighbours; nothing is drawn yet.

        Parameters
        ----------
        X_query : array-like of shape (n_queries, ...)
            Images, flat rows of pixels, or paths of files. One channel is shown grey, two as
            magenta and green, of three and more the first three as red, green and blue. Bool, uint8
            and floats in [0, 1] are shown as they are; anything else is stretched channel by
            channel from the least to the greatest value in view.

        Z_query : array-like of shape (n_queries, n_features)
            Their features.

        X : array-like of shape (n_samples, ...)
            Images among which neighbours are looked for, of the kind of `X_query`.

        Z : array-like of shape (n_samples, n_features)
            Their features.

        y_query : array-like of shape (n_queries,), default=None
            Labels of the queries.

        y : array-like of shape (n_samples,), default=None
            Labels of the other images; -1 means unlabelled.

        n_neighbors : int, default=6
            How many to show.

        metric : str or callable, default="cosine"
            As in :class:`~sklearn.neighbors.NearestNeighbors`.

        image_shape : tuple of int, default=None
            Of flat rows that are not square.

        channels : {"auto", "first", "last"}, default="auto"
            Channel axis; "auto" is the shorter of the first and the last.

        Returns
        -------
        display : NearestNeighborsDisplay

        Raises
        ------
        ValueError
            If features or labels are other than as many as their images.
        """
        for name, each, of, images in (
            ("Z_query", Z_query, "X_query", X_query),
            ("Z", Z, "X", X),
            ("y_query", y_query, "X_query", X_query),
            ("y", y, "X", X),
        ):
            _check_as_many(name, each, of, images)
        index = NearestNeighbors(n_neighbors=n_neighbors, metric=metric).fit(Z)
        indices = index.kneighbors(Z_query, return_distance=False)
        images = as_seen(X_query, _safe_indexing(X, indices.ravel()))
        images = shown_images(images, image_shape, channels)
        n_queries = len(indices)
        neighbors = images[n_queries:].reshape(*indices.shape, *images.shape[1:])
        # Of a pandas Series rows are meant, whatever its index is.
        query_labels = None if y_query is None else np.asarray(y_query)
        labels = None if y is None else np.asarray(y)[indices]
        return cls(images[:n_queries], neighbors, query_labels, labels, indices)

    @classmethod
    def from_estimator(cls, estimator, X_query, X, *, axes=None, **params):
        """Draw neighbours by the features of a fitted transformer.

        Parameters
        ----------
        estimator : transformer
            Fitted; a Pipeline that ends in a scaler makes all features count alike.

        X_query : array-like of shape (n_queries, ...)
            As in :meth:`from_embeddings`.

        X : array-like of shape (n_samples, ...)
            As in :meth:`from_embeddings`.

        axes : ndarray of :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        **params : dict
            Keyword parameters of :meth:`from_embeddings`.

        Returns
        -------
        display : NearestNeighborsDisplay
        """
        Z_query, Z = estimator.transform(X_query), estimator.transform(X)
        return cls.from_embeddings(X_query, Z_query, X, Z, **params).plot(axes)

    def plot(self, axes=None):
        """Draw a row for each query; a neighbour with another label is framed and named.

        Parameters
        ----------
        axes : ndarray of :class:`matplotlib.axes.Axes` of shape (n_queries, n_neighbors + 1), \
                default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        self : NearestNeighborsDisplay

        Raises
        ------
        ValueError
            If there are other than as many axes as images.
        ImportError
            If matplotlib is not installed.
        """
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        n_rows, n_columns = len(self.queries), self.neighbors.shape[1] + 1
        if axes is None:
            _, axes = pyplot.subplots(
                n_rows,
                n_columns,
                figsize=(1.0 * n_columns + 0.3, 1.16 * n_rows + 0.4),
                layout="constrained",
                squeeze=False,
                gridspec_kw={"width_ratios": [1.25] + [1] * (n_columns - 1)},
            )
            axes[0, 0].figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02)
        axes = np.asarray(axes, dtype=object)
        if axes.size != n_rows * n_columns:
            raise ValueError(
                f"axes: has {axes.size} axes, must have n_queries * (n_neighbors + 1)="
                f"{n_rows * n_columns}; pass None for a new figure."
            )
        self.axes_ = axes.reshape(n_rows, n_columns)
        self.figure_ = self.axes_[0, 0].figure
        for row in range(n_rows):
            self._draw_row(row)
        self.axes_[0, 0].set_title("image", fontsize=11)
        self.axes_[0, 1].set_title("nearest first", fontsize=11, loc="left")
        return self

    def _draw_row(self, row):
        query = None if self.query_labels is None else self.query_labels[row]
        images = [self.queries[row], *self.neighbors[row]]
        labels = [None] * len(images)
        if self.neighbor_labels is not None:
            labels = [query, *self.neighbor_labels[row]]
        for column, (ax, image) in enumerate(zip(self.axes_[row], images, strict=True)):
            ax.imshow(image, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            is_other = column > 0 and query is not None and labels[column] != query
            _frame(ax, labels[column], is_other)


def _frame(ax, label, is_other):
    """Another label is told by a thick frame and a bold name, not by colour alone."""
    if label is not None:
        ax.set_xlabel(
            _label_text(label),
            fontsize=10,
            labelpad=2,
            color=COLORS[1] if is_other else "black",
            fontweight="bold" if is_other else "normal",
        )
    ax.spines[:].set(
        color=COLORS[1] if is_other else "0.6",
        linewidth=2.4 if is_other else 0.8,
    )


def _label_text(label):
    return "unlabelled" if _is_unlabeled(label) else str(label)


def _is_unlabeled(label):
    """Whether it is -1, or what NumPy makes of that in a list of texts."""
    return label == ("-1" if isinstance(label, str) else -1)


def _check_as_many(name, values, of, rows):
    n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    if values is not None and len(values) != n_rows:
        raise ValueError(
            f"{name} has {len(values)} entries: must have one for each of the {n_rows} rows of "
            f"{of}; pass as many."
        )


class EmbeddingMapDisplay:
    """Features of images as points in the plane.

    Make one with :meth:`from_embeddings` or :meth:`from_estimator`.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
        Where the images lie.

    labels : ndarray of shape (n_samples,) or None
        Their labels; -1 means unlabelled.

    images : ndarray of shape (n_samples, height, width, 3) or None
        What to show at some of the points, in [0, 1].

    axis_names : tuple of str
        For the axes.

    Attributes
    ----------
    ax_ : :class:`matplotlib.axes.Axes`
        Where the map was drawn.

    figure_ : :class:`matplotlib.figure.Figure`
        The figure of `ax_`.

    thumbnails_ : list of int
        The images that are shown.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_cpc.evaluation import EmbeddingMapDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> display = EmbeddingMapDisplay.from_embeddings(X[:200], y[:200], images=X[:200]).plot()
    >>> display.ax_.get_xlabel()
    'First principal component (18 % of the variance)'
    """

    def __init__(self, points, labels, images, axis_names):
        self.points = points
        self.labels = labels
        self.images = images
        self.axis_names = axis_names

    @classmethod
    def from_embeddings(
        cls,
        Z,
        y=None,
        *,
        method="pca",
        images=None,
        image_shape=None,
        channels="auto",
        random_state=None,
    ):
        """Lay the map out; nothing is drawn yet.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            Labels; -1 means unlabelled.

        method : {"pca", "tsne"}, default="pca"
            "pca" keeps distances as far as a plane can; "tsne", of at most 50 principal
            components, keeps who is near to whom, and distances between groups mean little.

        images : array-like of shape (n_samples, ...), default=None
            Shown as thumbnails, as in :meth:`NearestNeighborsDisplay.from_embeddings`.

        image_shape : tuple of int, default=None
            Of flat rows that are not square.

        channels : {"auto", "first", "last"}, default="auto"
            Channel axis of the images.

        random_state : int, RandomState instance or None, default=None
            Seeds the method.

        Returns
        -------
        display : EmbeddingMapDisplay

        Raises
        ------
        ValueError
            If `method` is unknown, `y` or `images` has not one entry for each row of `Z`, or a
            label is missing.
        """
        if method not in MAPS:
            raise ValueError(f"method={method!r}: must be one of {MAPS}; pass one of them.")
        Z = check_array(Z, ensure_min_samples=3, ensure_min_features=2)
        for name, each in (("y", y), ("images", images)):
            _check_as_many(name, each, "Z", Z)
        random_state = check_random_state(random_state)
        points, names = (_pca_map if method == "pca" else _tsne_map)(Z, random_state)
        labels = None if y is None else column_or_1d(y)
        if labels is not None:
            refuse_missing(labels)
        if images is not None:
            images = shown_images(as_seen(images, longest=LONGEST), image_shape, channels)
        return cls(points, labels, images, names)

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, ax=None, thumbnails=False, **params):
        """Draw a map of the features of a fitted transformer.

        Parameters
        ----------
        estimator : transformer
            Fitted.

        X : array-like of shape (n_samples, ...)
            Images.

        y : array-like of shape (n_samples,), default=None
            Labels; -1 means unlabelled.

        ax : :class:`matplotlib.axes.Axes`, default=None
            As in :meth:`plot`.

        thumbnails : bool, default=False
            Show some of the images.

        **params : dict
            Keyword parameters of :meth:`from_embeddings`.

        Returns
        -------
        display : EmbeddingMapDisplay
        """
        images = X if thumbnails else None
        Z = estimator.transform(X)
        return cls.from_embeddings(Z, y, images=images, **params).plot(ax)

    def plot(self, ax=None, *, thumbnail_size=0.32):
        """Draw the points, coloured and marked by label, and images where there is room.

        Parameters
        ----------
        ax : :class:`matplotlib.axes.Axes`, default=None
            Where to draw; None makes a new figure. The legend stands to the right of the
            axes: give your own figure `layout="constrained"`.

        thumbnail_size : float, default=0.32
            Longer side of an image, in inches.

        Returns
        -------
        self : EmbeddingMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        pyplot = import_optional("matplotlib.pyplot", f"{type(self).__name__}.plot", "plot")
        if ax is None:
            _, ax = pyplot.subplots(figsize=(7.6, 6.2), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self._draw_points()
        ax.set_xlabel(self.axis_names[0], fontsize=12)
        ax.set_ylabel(self.axis_names[1], fontsize=12)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_aspect("equal", adjustable="datalim")
        self.thumbnails_ = []
        if self.images is not None:
            self._draw_thumbnails(thumbnail_size)
        return self

    def _draw_points(self):
        if self.labels is None:
            self.ax_.scatter(*self.points.T, s=14, color=COLORS[0], linewidth=0)
            return
        kinds = sorted(set(self.labels.tolist()), key=lambda kind: (_is_unlabeled(kind), kind))
        groups = []
        for i_kind, kind in enumerate(kinds):
            look = {"color": COLORS[i_kind % len(COLORS)], "marker": MARKERS[i_kind % len(MARKERS)]}
            if _is_unlabeled(kind):
                look = {"color": "0.6", "marker": ".", "zorder": 0}
            groups.append(
                self.ax_.scatter(
                    *self.points[self.labels == kind].T,
                    s=26,
                    linewidth=0.3,
                    edgecolor="white",
                    label=_label_text(kind),
                    **look,
                )
            )
        draw_legend(self.ax_, groups, markerscale=1.5, handletextpad=0.2)

    def _draw_thumbnails(self, size):
        """Images at points that lie further apart than an image is long, in the order of rows."""
        offsetbox = import_optional("matplotlib.offsetbox", type(self).__name__, "plot")
        self.figure_.draw_without_rendering()
        places = self.ax_.transData.transform(self.points) / self.figure_.dpi  # inches
        taken = np.empty((0, 2))
        for row, place in enumerate(places):
            if len(taken) and np.abs(taken - place).max(axis=1).min() < 1.15 * size:
                continue
            taken = np.vstack([taken, place])
            self.thumbnails_.append(row)
            image = self.images[row]
            zoom = 72 * size / max(image.shape[:2])
            picture = offsetbox.OffsetImage(image, zoom=zoom, interpolation="nearest")
            edge = {"edgecolor": self._edge_color(row), "linewidth": 1.4}
            self.ax_.add_artist(
                offsetbox.AnnotationBbox(picture, self.points[row], pad=0.1, bboxprops=edge)
            )

    def _edge_color(self, row):
        if self.labels is None or _is_unlabeled(self.labels[row]):
            return "0.6"
        kinds = sorted(kind for kind in set(self.labels.tolist()) if not _is_unlabeled(kind))
        return COLORS[kinds.index(self.labels[row]) % len(COLORS)]


def _pca_map(Z, random_state):
    pca = PCA(2, random_state=random_state).set_output(transform="default")
    points = pca.fit_transform(Z)
    names = [
        f"{which} principal component ({100 * share:.0f} % of the variance)"
        for which, share in zip(("First", "Second"), pca.explained_variance_ratio_, strict=True)
    ]
    return points, tuple(names)


def _tsne_map(Z, random_state):
    n_components = min(50, *Z.shape)
    pca = PCA(n_components, random_state=random_state).set_output(transform="default")
    perplexity = min(30.0, (len(Z) - 1) / 3)
    tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=random_state)
    points = tsne.set_output(transform="default").fit_transform(pca.fit_transform(Z))
    return points, ("t-SNE, first axis", "t-SNE, second axis")
