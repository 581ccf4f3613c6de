"""Slow twins of what picks rows and of the probes: lists, loops and the definitions."""

from math import dist, exp

import numpy as np


def typical_order(Z, clusters, labeled, n_labels, n_neighbors=20):
    """TypiClust, given the clusters: the least labelled, then largest, then first cluster; in it
    the row that is nearest to its neighbours."""
    labeled, chosen = set(labeled), []
    while len(chosen) < n_labels:
        best = None
        for cluster in range(max(clusters) + 1):
            rows = [i for i in range(len(Z)) if clusters[i] == cluster]
            free = [i for i in rows if i not in labeled]
            rank = (len(rows) - len(free), -len(rows))
            if free and (best is None or rank < best[0]):
                best = rank, rows, free
        _, rows, free = best
        distance = {}
        for i in free:
            others = sorted(dist(Z[i], Z[j]) for j in rows if j != i)[:n_neighbors]
            distance[i] = sum(others) / len(others) if others else 0.0
        # Means that differ by rounding alone are equal.
        chosen.append(min(free, key=lambda i: (round(distance[i], 9), i)))
        labeled.add(chosen[-1])
    return chosen


def farthest_first(Z, labeled, n_labels, first=None):
    """Greedy k-centre: the row whose nearest labelled row is the farthest."""
    labeled, chosen = list(labeled), []
    if first is not None:
        chosen.append(first)
    while len(chosen) < n_labels:
        centres = labeled + chosen
        free = [i for i in range(len(Z)) if i not in centres]
        chosen.append(max(free, key=lambda i: (min(dist(Z[i], Z[j]) for j in centres), -i)))
    return chosen


def knn_votes(query, Z, y, n_neighbors, metric, temperature=None):
    """{class: votes}; of Wu et al. 2018 with a temperature, of equal neighbours without."""
    cosine = [
        float(np.dot(query, row)) / (float(np.dot(query, query) * np.dot(row, row)) ** 0.5)
        for row in Z
    ]
    closeness = cosine if metric == "cosine" else [-dist(query, row) for row in Z]
    nearest = sorted(range(len(Z)), key=lambda i: -closeness[i])[:n_neighbors]
    votes = dict.fromkeys(sorted(set(y)), 0.0)
    for i in nearest:
        votes[y[i]] += 1.0 if temperature is None else exp(closeness[i] / temperature)
    return votes


def bn_linear(Z, targets, n_classes, n_epochs, learning_rate, weight_decay, momentum, eps=1e-5):
    """Full batches through batch norm and a linear layer, with Adam by its definition."""
    Z = np.asarray(Z, dtype=float)
    n, width = Z.shape
    mean, var = np.zeros(width), np.ones(width)
    params = [np.zeros((n_classes, width)), np.zeros(n_classes)]
    moments = [[np.zeros_like(p), np.zeros_like(p)] for p in params]
    losses = []
    for epoch in range(n_epochs):
        batch_mean, batch_var = Z.mean(0), Z.var(0)
        mean = (1 - momentum) * mean + momentum * batch_mean
        var = (1 - momentum) * var + momentum * batch_var * n / (n - 1)
        normal = (Z - batch_mean) / np.sqrt(batch_var + eps)
        error, loss = np.zeros((n, n_classes)), 0.0
        for i in range(n):
            logits = params[0] @ normal[i] + params[1]
            shares = np.exp(logits) / np.exp(logits).sum()
            loss -= np.log(shares[targets[i]]) / n
            error[i] = shares / n
            error[i, targets[i]] -= 1 / n
        losses.append(loss)
        rate = learning_rate * (1 + np.cos(np.pi * epoch / n_epochs)) / 2
        gradients = [error.T @ normal + weight_decay * params[0], error.sum(0)]
        for param, gradient, (first, second) in zip(params, gradients, moments, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            unbiased = first / (1 - 0.9 ** (epoch + 1)), second / (1 - 0.999 ** (epoch + 1))
            param -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return params[0], params[1], mean, var, losses
