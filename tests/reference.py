"""Slow twins of the tensor formulas of `sklearn_cpc.nn`: plain loops in float64, no vectorisation.

Arrays in, arrays out. Nothing here imports the formulas that it checks; networks are read for
their parameters only.
"""

from math import ceil, cos, erf, exp, log, sin, sqrt

import numpy as np
import scipy.linalg


def array(tensor):
    return tensor.detach().to("cpu").double().numpy()


# Geometry


def starts(side, size, stride):
    """First pixels of the patches along one axis, centred, the larger remainder at the end."""
    first = [0]
    while first[-1] + stride + size <= side:
        first.append(first[-1] + stride)
    free = side - (first[-1] + size)
    return [free // 2 + start for start in first]


def patches(images, size, stride):
    """(batch, channels, height, width) -> nested list [image][row][col] of patches."""
    height, width = images.shape[-2:]
    rows = starts(height, size[0], stride[0])
    cols = starts(width, size[1], stride[1])
    return [
        [[image[:, y : y + size[0], x : x + size[1]] for x in cols] for y in rows]
        for image in images
    ]


def first_safe_step(size, stride):
    """Smallest step at which no pixel belongs to two patches, by counting pixels."""
    k = 1
    while set(range(size)) & set(range(k * stride, k * stride + size)):
        k += 1
    return k


def turned_clockwise(grid):
    """A quarter turn of (rows, cols, ...)."""
    rows, cols = grid.shape[:2]
    out = np.empty((cols, rows, *grid.shape[2:]), grid.dtype)
    for i in range(rows):
        for j in range(cols):
            out[j, rows - 1 - i] = grid[i, j]
    return out


QUARTER_TURNS_CLOCKWISE = {"down": 0, "right": 1, "up": 2, "left": 3}


def first_row_first(grid, direction):
    """Turn (rows, cols, ...) until prediction runs from the first row to the last."""
    for _ in range(QUARTER_TURNS_CLOCKWISE[direction]):
        grid = turned_clockwise(grid)
    return grid


# Networks


def relu(x):
    return np.maximum(x, 0)


def conv2d(x, layer):
    """(channels, height, width) through the weights of a Conv2d."""
    weight, (sy, sx), (py, px) = array(layer.weight), layer.stride, layer.padding
    x = np.pad(x, ((0, 0), (py, py), (px, px)))
    n_out, _, ky, kx = weight.shape
    height, width = (x.shape[1] - ky) // sy + 1, (x.shape[2] - kx) // sx + 1
    out = np.zeros((n_out, height, width))
    for y in range(height):
        for col in range(width):
            window = x[:, y * sy : y * sy + ky, col * sx : col * sx + kx]
            out[:, y, col] = weight.reshape(n_out, -1) @ window.ravel()
    return out if layer.bias is None else out + array(layer.bias)[:, None, None]


def channel_norm(x, layer):
    """Zero mean, unit variance over the channels of each pixel, then weight and bias."""
    out = np.empty_like(x)
    for y in range(x.shape[1]):
        for col in range(x.shape[2]):
            v = x[:, y, col]
            v = (v - v.mean()) / np.sqrt(v.var() + layer.eps)
            out[:, y, col] = v * array(layer.weight) + array(layer.bias)
    return out


def sequential(x, layers):
    for layer in layers:
        x = LAYERS[type(layer).__name__](x, layer)
    return x


def group_norm(x, layer):
    """Zero mean, unit variance over the pixels and neighbouring channels, then weight and bias."""
    size = len(x) // layer.num_groups
    out = np.empty_like(x)
    for c in range(len(x)):
        first = c - c % size
        group = x[first : first + size]
        v = (x[c] - group.mean()) / np.sqrt(group.var() + layer.eps)
        out[c] = v * array(layer.weight)[c] + array(layer.bias)[c]
    return out


def pre_activation_block(x, block):
    h = relu(sequential(x, [block.norm]))
    shortcut = x if block.shortcut is None else conv2d(h, block.shortcut)
    residual = sequential(h, block.residual)
    return (residual if block.scale is None else array(block.scale)[0] * residual) + shortcut


def max_pool(x, layer):
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)), constant_values=-np.inf)
    height, width = ((side - size) // stride + 1 for side in x.shape[1:])
    out = np.empty((len(x), height, width))
    for y in range(height):
        for col in range(width):
            window = x[:, y * stride : y * stride + size, col * stride : col * stride + size]
            out[:, y, col] = window.max((1, 2))
    return out


LAYERS = {
    "Conv2d": conv2d,
    "ChannelNorm": channel_norm,
    "GroupNorm": group_norm,
    "Identity": lambda x, _: x,
    "ReLU": lambda x, _: relu(x),
    "MaxPool2d": max_pool,
    "_PreActBlock": pre_activation_block,
    "_Shrinking": conv2d,
}


def conv_encoder(patch, encoder):
    """One patch (channels, height, width) -> (n_components,)."""
    return relu(conv2d(sequential(patch, encoder.body), encoder.head))[:, 0, 0]


def resnet_encoder(patch, encoder):
    features = sequential(patch, encoder.body).mean((1, 2))
    if encoder.head is None:
        return features
    return relu(array(encoder.head.weight) @ features + array(encoder.head.bias))


def pixel_cnn(z, context):
    """(rows, cols, latent) -> c, position by position, looking up and sideways only."""
    rows, cols, _ = z.shape
    for block in context.blocks:
        (S, s), (A, a), (D, d), (E, e) = (
            (array(layer.weight), array(layer.bias))
            for layer in (block.squeeze, block.across, block.down, block.expand)
        )
        h = [[relu(S[:, :, 0, 0] @ z[i, j] + s) for j in range(cols)] for i in range(rows)]
        wide = np.zeros((rows + 1, cols, len(s)))  # Row 0 is the padding on top.
        for i in range(rows):
            for j in range(cols):
                near = [t for t in (-1, 0, 1) if 0 <= j + t < cols]
                wide[i + 1, j] = a + sum(A[:, :, 0, 1 + t] @ h[i][j + t] for t in near)
        out = np.empty_like(z)
        for i in range(rows):
            for j in range(cols):
                down = D[:, :, 0, 0] @ wide[i, j] + D[:, :, 1, 0] @ wide[i + 1, j] + d
                out[i, j] = z[i, j] + E[:, :, 0, 0] @ relu(down) + e
        z = out
    return relu(z)


def affine(x, layer):
    out = array(layer.weight).reshape(len(layer.weight), -1) @ x
    return out if layer.bias is None else out + array(layer.bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gated_pixel_cnn(z, context):
    """(rows, cols, latent) -> c, position by position, looking up and sideways only."""
    rows, cols, _ = z.shape
    places = [(i, j) for i in range(rows) for j in range(cols)]
    h = {place: affine(z[place], context.squeeze) for place in places}
    for block in context.blocks:
        weight, bias = array(block.down.weight), array(block.down.bias)
        out = {}
        for i, j in places:
            seen = bias.copy()
            for up in (0, 1):
                for aside in (-1, 0, 1):
                    if (i - up, j + aside) in h:
                        seen += weight[:, :, 1 - up, 1 + aside] @ h[i - up, j + aside]
            value, gate = np.split(seen, 2)
            out[i, j] = h[i, j] + affine(np.tanh(value) * sigmoid(gate), block.mix)
        h = out
    return grid_of({p: affine(relu(h[p]), context.expand) for p in places}, rows, cols)


def grid_of(vectors, rows, cols):
    return np.array([[vectors[i, j] for j in range(cols)] for i in range(rows)])


def gru(sequence, layer, suffix):
    """States of a GRU, with the update gate z and the reset gate r of torch's documentation."""
    W, U, b, d = (
        array(getattr(layer, f"{kind}_{suffix}"))
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = np.zeros(U.shape[1]), []
    for x in sequence:
        (xr, xz, xn), (hr, hz, hn) = np.split(W @ x + b, 3), np.split(U @ h + d, 3)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + r * hn) + z * h
        states.append(h)
    return states


def row_gru(z, context):
    """(rows, cols, latent) -> c: along each row in both ways, then down each column."""
    rows, cols, _ = z.shape
    wide = np.empty((rows, cols, 2 * context.across.hidden_size))
    for i in range(rows):
        there = gru(z[i], context.across, "l0")
        back = gru(z[i][::-1], context.across, "l0_reverse")[::-1]
        for j in range(cols):
            wide[i, j] = np.concatenate([there[j], back[j]])
    out = np.empty_like(z)
    for j in range(cols):
        states = list(wide[:, j])
        for layer in range(context.down.num_layers):
            states = gru(states, context.down, f"l{layer}")
        for i in range(rows):
            out[i, j] = affine(states[i], context.expand)
    return out


def layer_norm(v, layer):
    v = (v - v.mean()) / np.sqrt(v.var() + layer.eps)
    return v * array(layer.weight) + array(layer.bias)


def gelu(x):
    return np.array([v * (1 + erf(v / sqrt(2))) / 2 for v in x])


def position(i, j, width):
    n_waves, code = ceil(width / 4), []
    for wave in range(n_waves):
        speed = 1000 ** -(wave / n_waves)
        code += [sin(i * speed), sin(j * speed), cos(i * speed), cos(j * speed)]
    return np.array(code[:width])


def row_transformer(z, context):
    """(rows, cols, latent) -> c: each place asks every place of its row and of those above."""
    rows, cols, _ = z.shape
    places = [(i, j) for i in range(rows) for j in range(cols)]
    width = context.squeeze.out_features
    h = {p: affine(z[p], context.squeeze) + position(*p, width) for p in places}
    for block in context.blocks:
        size = width // block.n_heads
        qkv = {
            p: affine(layer_norm(h[p], block.attention_norm), block.query_key_value).reshape(
                3, block.n_heads, size
            )
            for p in places
        }
        out = {}
        for p in places:
            seen = [q for q in places if q[0] <= p[0]]
            heads = []
            for n in range(block.n_heads):
                scores = np.array([qkv[p][0, n] @ qkv[q][1, n] / sqrt(size) for q in seen])
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                heads += [sum(s * qkv[q][2, n] for s, q in zip(shares, seen, strict=True))]
            out[p] = h[p] + affine(np.concatenate(heads), block.attended)
        norm, first, _, last = block.mlp
        h = {p: v + affine(gelu(affine(layer_norm(v, norm), first)), last) for p, v in out.items()}
    norm, last = context.expand
    return grid_of({p: affine(layer_norm(h[p], norm), last) for p in places}, rows, cols)


CONTEXTS = {
    "pixelcnn": pixel_cnn,
    "gated-pixelcnn": gated_pixel_cnn,
    "gru": row_gru,
    "transformer": row_transformer,
}


# Loss


def info_nce(predictions, targets, positives):
    """Equation 4 of van den Oord et al. 2018: (loss, accuracy)."""
    total, n_correct = 0.0, 0
    for prediction, positive in zip(predictions, positives, strict=True):
        scores = [float(np.dot(prediction, target)) for target in targets]
        top = max(scores)
        denominator = sum(exp(score - top) for score in scores)
        total -= scores[positive] - top - log(denominator)
        n_correct += scores.index(top) == positive
    return total / len(predictions), n_correct / len(predictions)


def scores_of(predictions, targets):
    return [[float(np.dot(p, t)) for t in targets] for p in predictions]


def contrast(scores, positives, objective="infonce", n_hard=None):
    """(loss, share of hits, InfoNCE) of rows of scores, some of the negatives only."""
    rows = []
    for row, positive in zip(scores, positives, strict=True):
        own = row[positive]
        others = sorted((s for i, s in enumerate(row) if i != positive), reverse=True)[:n_hard]
        nce = -own + log(exp(own) + sum(exp(s) for s in others))
        binary = [log(1 + exp(s)) for s in others] or [0.0]
        bce = (log(1 + exp(-own)) + sum(binary) / len(binary)) / 2
        hit = all(own > s for s in others)
        rows.append((nce if objective == "infonce" else bce, hit, nce))
    return tuple(np.mean(rows, 0))


def predict(z, model):
    """{(direction, k): (loss, accuracy)} with every pair and every target of the batch."""
    results = {}
    for direction, steps in model.plan.items():
        turned = [first_row_first(image, direction) for image in z]
        c = [pixel_cnn(image, model.contexts[direction]) for image in turned]
        rows, cols, _ = turned[0].shape
        places = [(b, i, j) for b in range(len(z)) for i in range(rows) for j in range(cols)]
        map_target = array(model.targets[direction].weight)
        candidates = [unit(map_target @ turned[b][i, j], model) for b, i, j in places]
        for W_k, k in zip(model.W[direction], steps, strict=True):
            predictions, positives = [], []
            for b, i, j in places:
                if i + k < rows:
                    z_hat = unit(array(W_k.weight) @ c[b][i, j], model)
                    predictions.append(z_hat / model.temperature)
                    positives.append(places.index((b, i + k, j)))
            results[direction, k] = info_nce(predictions, candidates, positives)
    return results


def predict_groups(z, model):
    """{(direction, k): (loss, accuracy)} within groups of `negative_images` images."""
    size = model.negative_images
    starts = range(0, len(z) - size + 1, size)

    def groups(places):
        return [[(b, *place) for b in range(s, s + size) for place in places] for s in starts]

    return predict_within(z, model, groups)


def predict_places(z, model):
    """{(direction, k): (loss, accuracy)} among the targets at one place of all images."""
    return predict_within(
        z, model, lambda places: [[(b, *place) for b in range(len(z))] for place in places]
    )


def predict_within(z, model, groups):
    """The mean over groups, lists of (image, row, column) made of the places of the contexts."""
    results = {}
    for direction, steps in model.plan.items():
        turned = [first_row_first(image, direction) for image in z]
        c = [pixel_cnn(image, model.contexts[direction]) for image in turned]
        rows, cols, _ = turned[0].shape
        map_target = array(model.targets[direction].weight)
        for W_k, k in zip(model.W[direction], steps, strict=True):
            parts = []
            for group in groups([(i, j) for i in range(rows - k) for j in range(cols)]):
                predictions, candidates = [], []
                for b, i, j in group:
                    z_hat = unit(array(W_k.weight) @ c[b][i, j], model)
                    predictions.append(z_hat / model.temperature)
                    candidates.append(unit(map_target @ turned[b][i + k, j], model))
                parts.append(info_nce(predictions, candidates, range(len(predictions))))
            results[direction, k] = tuple(np.mean(parts, 0))
    return results


def unit(v, model):
    return v / np.sqrt((v**2).sum()) if model.similarity == "cosine" else v


# Augmentation


def shifted(image, dy, dx, mode):
    """Pixel (y, x) of the result is pixel (y + dy, x + dx), beyond the border as np.pad's mode."""
    _, height, width = image.shape
    wide = np.pad(image, ((0, 0), (abs(dy), abs(dy)), (abs(dx), abs(dx))), mode=mode)
    y, x = abs(dy) + dy, abs(dx) + dx
    return wide[:, y : y + height, x : x + width]


def shifts(image, amount, mode):
    """{(dy, dx): image} of all whole moves by up to a fraction of the sides."""
    _, height, width = image.shape
    reach_y, reach_x = round(amount * height), round(amount * width)
    return {
        (dy, dx): shifted(image, dy, dx, mode)
        for dy in range(-reach_y, reach_y + 1)
        for dx in range(-reach_x, reach_x + 1)
    }


def luma(patch):
    """(3, height, width) -> the same grey in all channels, weights of ITU-R BT.601."""
    out = np.empty_like(patch)
    for y in range(patch.shape[1]):
        for x in range(patch.shape[2]):
            red, green, blue = patch[:, y, x]
            out[:, y, x] = 0.299 * red + 0.587 * green + 0.114 * blue
    return out


# Pooling


def normalised_patch(patch, offset):
    """Pixels of one patch, in the order of channels, rows and columns, less their mean."""
    pixels = [float(p) for channel in patch for row in channel for p in row]
    if len(pixels) == 1:
        return np.array(pixels)
    mean = sum(pixels) / len(pixels)
    variance = sum((p - mean) ** 2 for p in pixels) / len(pixels)
    return np.array([(p - mean) / (variance + offset) ** 0.5 for p in pixels])


def dictionary(patch, encoder):
    """Rectified features of one patch, (channels, height, width)."""
    pixels = normalised_patch(patch, encoder.contrast_offset) - array(encoder.center)
    white = [sum(pixels * column) for column in array(encoder.whitening).T]
    codes = np.array(rectified(white, encoder.atoms))
    return rectified(codes, encoder.combine)


def rectified(x, layer):
    """max(0, W x + b), row by row."""
    weight, bias = array(layer.weight), array(layer.bias)
    return [max(0.0, sum(w * x) + b) for w, b in zip(weight, bias, strict=True)]


def whitening(images, encoder, regularisation):
    """Mean and inverse root of the covariance of all normalised patches."""
    height, width = encoder.patch_size
    rows = [
        normalised_patch(image[:, i : i + height, j : j + width], encoder.contrast_offset)
        for image in images
        for i in range(image.shape[1] - height + 1)
        for j in range(image.shape[2] - width + 1)
    ]
    center = np.mean(rows, axis=0)
    covariance = np.mean([np.outer(row - center, row - center) for row in rows], axis=0)
    regular = covariance + regularisation * np.eye(len(center))
    return center, np.linalg.inv(scipy.linalg.sqrtm(regular))


def pool(features, pooling):
    """(batch, rows, cols, n_components) -> rows of features."""
    return np.array([POOLINGS[pooling](image) for image in features])


def over(image, rows, cols, reduce):
    return [reduce([image[i, j, f] for i in rows for j in cols]) for f in range(image.shape[2])]


def quadrants(image, reduce=max):
    rows, cols, _ = image.shape
    out = []
    for part_of_rows in half(rows):
        for part_of_cols in half(cols):
            out += over(image, part_of_rows, part_of_cols, reduce)
    return out


def parts(image, n):
    """Maxima over n x n parts; a row that lies on a border belongs to both sides."""
    rows, cols = image.shape[:2]
    out = []
    for i in range(n):
        for j in range(n):
            of_rows = [r for r in range(rows) if r + 1 > i * rows / n and r < (i + 1) * rows / n]
            of_cols = [c for c in range(cols) if c + 1 > j * cols / n and c < (j + 1) * cols / n]
            out += over(image, of_rows, of_cols, max)
    return out


def half(n):
    """The two halves of range(n); the middle of an odd number belongs to both."""
    return [i for i in range(n) if i <= (n - 1) / 2], [i for i in range(n) if i >= (n - 1) / 2]


POOLINGS = {
    "max": lambda image: over(image, range(image.shape[0]), range(image.shape[1]), max),
    "mean": lambda image: over(image, range(image.shape[0]), range(image.shape[1]), np.mean),
    "quadrants": quadrants,
    "quadrant-means": lambda image: quadrants(image, np.mean),
    "max+mean": lambda image: POOLINGS["max"](image) + POOLINGS["mean"](image),
    "pyramid": lambda image: parts(image, 1) + parts(image, 2) + parts(image, 4),
    "flatten": lambda image: [value for row in image for patch in row for value in patch],
    "none": lambda image: [value for row in image for patch in row for value in patch],
}
