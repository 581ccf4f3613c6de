"""Which images to label: the first question of somebody who has many and no labels."""

import difflib
import warnings
from numbers import Integral

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_random_state, column_or_1d

from .unlabeled import labeled_mask

# As in the authors' code of TypiClust; beyond, clusters have several labels each.
MAX_CLUSTERS = 500
N_NEIGHBORS = 20
FULL_KMEANS_ROWS = 10_000  # of more rows KMeans takes minutes, MiniBatchKMeans seconds


def select_to_label(
    X_embedded, n_labels, *, already_labeled=None, method="typical", random_state=None
):
    """Choose the images whose labels are worth the most, before there are any.

    Parameters
    ----------
    X_embedded : array-like of shape (n_samples, n_features)
        Features of all images, such as the output of a transformer. Distances are Euclidean:
        scale the features (:class:`~sklearn.preprocessing.StandardScaler`) if their units differ,
        or divide the rows by their lengths (:class:`~sklearn.preprocessing.Normalizer`) if only
        their directions count.

    n_labels : int
        How many more images are to be labelled.

    already_labeled : array-like of int, or of bool and shape (n_samples,), default=None
        Rows that have a label: their indices, or a mask. They are taken into account and never
        returned.

    method : {"typical", "coverage", "random"}, default="typical"
        "typical": TypiClust [1]_. The rows are clustered by k-means into as many clusters as there
        are labels, old and new, but 500 at most; of the clusters with the fewest labels the largest
        comes first, and of its rows the one with the smallest mean distance to its 20 nearest
        neighbours in the cluster. Good for few labels.
        "coverage": greedy k-centre [2]_, the row that is the farthest from all labelled rows, again
        and again; the first is drawn at random if nothing is labelled. It reaches rare kinds of
        image and outliers alike; good for many labels.
        "random": every row is as likely as any other, the rival to beat.

    random_state : int, RandomState instance or None, default=None
        Seeds the clustering, the first row of "coverage" and the choice of "random". With an int,
        two calls choose the same rows.

    Returns
    -------
    indices : ndarray of shape (n_labels,)
        Rows of `X_embedded` in the order in which to label them. Of equally good rows the first
        comes first.

    Raises
    ------
    ValueError, TypeError
        If there are fewer rows without a label than `n_labels`, or a parameter is not one of the
        above.

    Notes
    -----
    Memory beside the features is bounded by scikit-learn's `working_memory`; no matrix of all
    distances is made. "coverage" takes time in proportion to n_labels * n_samples * n_features.

    No method sees a label, so none can promise a label of each class.

    References
    ----------
    .. [1] Hacohen, G., Dekel, A. and Weinshall, D. (2022). Active Learning on a Budget: Opposite
       Strategies Suit High and Low Budgets. ICML. arXiv:2202.02794.
    .. [2] Sener, O. and Savarese, S. (2018). Active Learning for Convolutional Neural Networks: A
       Core-Set Approach. ICLR. arXiv:1708.00489.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn_cpc import select_to_label
    >>> X, y = load_digits(return_X_y=True)
    >>> Z = PCA(20, random_state=0).fit_transform(X)
    >>> first = select_to_label(Z, 20, random_state=0)
    >>> len(set(y[first])) >= 9  # Without having seen a label.
    True
    >>> more = select_to_label(Z, 20, already_labeled=first, random_state=0)
    >>> set(first) & set(more)
    set()
    """
    Z = _check_embedded(X_embedded)
    labeled = _check_already_labeled(already_labeled, len(Z))
    _check_n_labels(n_labels, len(Z), labeled.sum())
    select = _method(method)
    return select(Z, int(n_labels), labeled, check_random_state(random_state))


def _typical(Z, n_labels, labeled, rng):
    clusters = _cluster(Z, n_labels + labeled.sum(), rng)
    n_clusters = clusters.max() + 1
    sizes = np.bincount(clusters, minlength=n_clusters)
    n_labeled = np.bincount(clusters[labeled], minlength=n_clusters)
    candidates = {}
    chosen = []
    while len(chosen) < n_labels:
        # Fewest labels first, then the largest; a cluster without candidates comes last.
        used_up = n_labeled >= sizes
        cluster = np.lexsort((-sizes, n_labeled, used_up))[0]
        if cluster not in candidates:
            candidates[cluster] = iter(_by_typicality(Z, clusters == cluster, labeled))
        chosen.append(next(candidates[cluster]))
        n_labeled[cluster] += 1
    return np.array(chosen, dtype=np.intp)


def _cluster(Z, n_clusters, rng):
    kind = KMeans if len(Z) <= FULL_KMEANS_ROWS else MiniBatchKMeans
    kmeans = kind(min(n_clusters, MAX_CLUSTERS), random_state=rng.randint(np.iinfo(np.int32).max))
    with warnings.catch_warnings():
        # Fewer different rows than clusters: the empty clusters are passed over.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.unique(kmeans.fit_predict(Z), return_inverse=True)[1]


def _by_typicality(Z, in_cluster, labeled):
    """The rows of a cluster that have no label, from the densest place to the sparsest."""
    rows = np.flatnonzero(in_cluster)
    distance = np.zeros(len(rows))
    if len(rows) > 1:
        index = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows) - 1)).fit(Z[rows])
        distance = index.kneighbors()[0].mean(axis=1)
    order = rows[np.argsort(distance, kind="stable")]
    return order[~labeled[order]]


def _coverage(Z, n_labels, labeled, rng):
    distance = np.full(len(Z), np.inf)
    chosen = []
    if labeled.any():
        distance = pairwise_distances_argmin_min(Z, Z[labeled])[1] ** 2
    else:
        chosen.append(rng.randint(len(Z)))
    taken = labeled.copy()
    while True:
        for row in chosen[-1:]:
            taken[row] = True
            from_row = euclidean_distances(Z, Z[row : row + 1], squared=True)[:, 0]
            np.minimum(distance, from_row, out=distance)
        if len(chosen) == n_labels:
            return np.array(chosen, dtype=np.intp)
        # A copy of a labelled row has distance 0, as that row itself: it comes last, but it comes.
        chosen.append(int(np.argmax(np.where(taken, -1.0, distance))))


def _random(Z, n_labels, labeled, rng):
    return rng.permutation(np.flatnonzero(~labeled))[:n_labels]


METHODS = {"typical": _typical, "coverage": _coverage, "random": _random}


def _method(method):
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    near = difflib.get_close_matches(str(method), METHODS, 1, 0.5)
    raise ValueError(
        f"method={method!r}: must be one of {list(METHODS)}."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _check_embedded(X_embedded):
    n_dim = np.ndim(X_embedded) if not hasattr(X_embedded, "shape") else len(X_embedded.shape)
    if n_dim != 2:
        raise ValueError(
            f"X_embedded has {n_dim} dimensions: features of shape (n_samples, n_features) are "
            "needed; pass the output of a transformer, or X.reshape(len(X), -1)."
        )
    return check_array(X_embedded, dtype=[np.float64, np.float32], input_name="X_embedded")


def _check_already_labeled(already_labeled, n_samples):
    """A mask of the rows that have a label."""
    mask = np.zeros(n_samples, dtype=bool)
    if already_labeled is None or len(already_labeled) == 0:
        return mask
    rows = np.asarray(already_labeled)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise TypeError(
            f"already_labeled has {rows.ndim} dimensions and dtype {rows.dtype}: must be 1-D, of "
            "int (indices) or bool (a mask); pass np.flatnonzero(y != -1), for example."
        )
    if rows.dtype.kind == "b":
        if len(rows) != n_samples:
            raise ValueError(
                f"already_labeled is a mask of length {len(rows)}: it must be as long as "
                f"X_embedded={n_samples}; pass a mask of all rows, or indices."
            )
        return rows.copy()
    outside = rows[(rows < 0) | (rows >= n_samples)]
    if len(outside):
        raise ValueError(
            f"already_labeled={outside[0]}: an index must be in 0 to {n_samples - 1}, the rows of "
            "X_embedded; pass indices of its rows, or a mask."
        )
    mask[rows] = True
    return mask


def _check_n_labels(n_labels, n_samples, n_labeled):
    if isinstance(n_labels, bool) or not isinstance(n_labels, Integral):
        raise TypeError(f"n_labels={n_labels!r}: must be an int; pass 1 or more.")
    if n_labels < 1:
        raise ValueError(f"n_labels={n_labels}: must be at least 1; pass 1 or more.")
    if n_labels > n_samples - n_labeled:
        raise ValueError(
            f"n_labels={n_labels}: must be at most the {n_samples - n_labeled} rows of X_embedded "
            f"that have no label ({n_samples} rows, {n_labeled} of them labelled); pass a smaller "
            "number."
        )


def selected_label_subsets(Z, y, n_labels, method="typical", random_state=None):
    """Draw nested label subsets by a method that sees no label.

    The counterpart of :func:`nested_label_subsets` for curves: the smallest subset is chosen from
    nothing, and each larger one adds to the one before it, as somebody would who labels in rounds.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_features)
        Features of the training images.

    y : array-like of shape (n_samples,)
        Their classes; only which of them are -1, unlabelled, is looked at. Such a row serves no
        purpose here and is left out.

    n_labels : sequence of int
        The number of labels of each subset, in any order.

    method : {"typical", "coverage", "random"} or callable, default="typical"
        As in :func:`select_to_label`, or a function with its parameters that returns indices:
        `method(Z, n_labels, already_labeled=indices, random_state=random_state)`.

    random_state : int, RandomState instance or None, default=None
        Seeds the method.

    Returns
    -------
    subsets : list of ndarray of shape (n_labels,)
        Sorted row indices into `Z` and `y`, one array for each entry of `n_labels`, in its order.

    Raises
    ------
    ValueError
        If a number is above the number of labelled rows or below 1, or a callable returns a row
        twice, one that is labelled already, or another number of rows than was asked for.

    Notes
    -----
    A subset need not hold every class. A classifier knows only the classes it was shown, and is
    scored for those it was not as anybody who uses the method would be; for a subset of a single
    class see :func:`classifier_for`.
    """
    Z = _check_embedded(Z)
    y = column_or_1d(y)
    known = np.flatnonzero(labeled_mask(y))
    if callable(method):
        select = method
    else:
        _method(method)
        select = _select_by_name(method)
    rng = check_random_state(random_state)
    for count in n_labels:
        _check_n_labels(count, len(known), 0)
    chosen = np.array([], dtype=np.intp)
    subsets = {}
    for count in sorted(set(n_labels)):
        seed = rng.randint(np.iinfo(np.int32).max)
        if count == len(known):
            subsets[count] = known
            continue
        more = select(Z[known], count - len(chosen), already_labeled=chosen, random_state=seed)
        chosen = _check_selected(method, np.concatenate([chosen, more]), count, len(known))
        subsets[count] = np.sort(known[chosen])
    return [subsets[count] for count in n_labels]


def _select_by_name(method):
    def select(Z, n_labels, already_labeled, random_state):
        return select_to_label(
            Z, n_labels, already_labeled=already_labeled, method=method, random_state=random_state
        )

    return select


def _check_selected(method, rows, count, n_rows):
    is_index = rows.dtype.kind in "iu" and (rows >= 0).all() and (rows < n_rows).all()
    if not is_index or len(rows) != count or len(np.unique(rows)) != count:
        raise ValueError(
            f"the selection by {method!r}: of {n_rows} rows it must return as many different ones "
            f"as asked for, none of them already labelled; got {rows.tolist()[:10]} for {count} in "
            "all."
        )
    return rows


def classifier_for(y, classifier):
    """The classifier, or one that knows a single class where `y` has no other.

    Methods that see no label may choose images of one class. Most classifiers refuse to be fitted
    on them; whoever has these labels can still say that class, always, and has that score.

    Parameters
    ----------
    y : array-like of shape (n_labels,)
        The classes of a label subset, all of them labelled.

    classifier : estimator
        What is fitted where there are two classes or more.

    Returns
    -------
    classifier : estimator
        Not fitted: `classifier` itself, or a :class:`~sklearn.dummy.DummyClassifier`.
    """
    return classifier if len(np.unique(y)) > 1 else DummyClassifier(strategy="most_frequent")
