"""The equations of arXiv 1811.00700 in plain NumPy, written from the paper alone; no code of urnet_tf.

Slow and without any care for memory, in float64. Where the paper leaves something open, the reading is the
one that the product documents, and a comment says so.
"""

import numpy as np

ALPHA, BETA, NEIGHBORS, GROUPS, BAG = 0.5, 0.8, 4, 5, 3  # Sec. 4 and 5


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------ Sec. 4.1, Eq. 2-4


def class_weights(labels, num_classes):
    """w_j = (1 - alpha) + alpha r_j / sum(r), where r_j falls with the number of images of the class."""
    sizes = [sum(1 for label in labels if label == j) for j in range(num_classes)]
    r = np.array([1.0 / size if size else 0.0 for size in sizes])
    return (1 - ALPHA) + ALPHA * r / r.sum()


# ------------------------------------------------------------------------------------ Sec. 4.2, Eq. 5-6


def confusion_matrix(labels, predicted, num_classes):
    """M_jk: images of j that the baseline classifies as k."""
    matrix = np.zeros((num_classes, num_classes), int)
    for j, k in zip(labels, predicted, strict=True):
        matrix[j, k] += 1
    return matrix


def confusing_classes(matrix, j):
    """The four classes k with the largest M_jk; reading: equal counts by class number."""
    others = [k for k in range(len(matrix)) if k != j]
    return sorted(others, key=lambda k: (-matrix[j, k], k))[:NEIGHBORS]


def rows_of_classes(labels, classes):
    """The images that are clustered for a class: its own, then those of its confusing ones."""
    return np.concatenate([np.flatnonzero(np.asarray(labels) == c) for c in classes])


def is_fixed_point_of_k_means(points, groups):
    """Whether every point is in the group with the nearest mean, and all groups have members."""
    points, names = np.asarray(points, float), sorted(set(groups.tolist()))
    if names != list(range(min(GROUPS, len(np.unique(points, axis=0))))):
        return False
    means = np.stack([points[groups == g].mean(axis=0) for g in names])
    distances = ((points[:, None] - means) ** 2).sum(axis=2)
    own = distances[np.arange(len(points)), groups]
    return bool((own <= distances.min(axis=1) + 1e-4 * distances.max()).all())


def cluster_weights(groups, num_own):
    """Eq. 5: the share of everything clustered that the group of each own image has."""
    return np.array([np.mean(groups == g) for g in groups[:num_own]])


# ------------------------------------------------------------------------------- Sec. 4.3, Fig. 5, Eq. 8-9


def words_of(text):
    """Lower-case words; enough for the plain names of a drawn crawl."""
    return "".join(sign if sign.isalnum() else " " for sign in text.lower().replace("'", "")).split()


def class_text_vector(texts, vectors):
    """Reading: the mean of a class's different texts, each the mean of the unit vectors of its words."""
    different = list(dict.fromkeys(tuple(words_of(text)) for text in texts))
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    means = [unit(np.mean([unit(vectors[word]) for word in words], axis=0)) for words in different]
    return unit(np.mean(means, axis=0))


def best_results(rows, count, source="google"):
    """Images that the network learns from: the `count` best of the source of each class.

    Reading: a class's queries take turns, each by rank, in the order in which they occur. `rows` has
    (label, source, query, rank) of each image.
    """
    chosen = []
    for label in sorted({row[0] for row in rows}):
        own = [i for i, row in enumerate(rows) if row[0] == label]
        offered = [i for i in own if rows[i][1] == source] or own
        queues = {}
        for i in offered:
            queues.setdefault(rows[i][1:3], []).append(i)
        queues = [sorted(queue, key=lambda i: rows[i][3]) for queue in queues.values()]
        turns = [queue[turn] for turn in range(len(offered)) for queue in queues if turn < len(queue)]
        chosen += turns[:count]
    return np.sort(chosen)


class TwoSidedNetwork:
    """Fig. 5: x -> FC -> FC -> V_I and t -> FC -> FC -> V_T.

    Reading: `width` units in each layer, a rectifier between the two of a side, Glorot's initial weights.
    """

    def __init__(self, feature_dim, text_dim, width, generator):
        self.layers = []
        for inputs in (feature_dim, width, text_dim, width):
            limit = np.sqrt(6 / (inputs + width))
            kernel = generator.uniform(-limit, limit, (inputs, width)).astype(np.float32).astype(float)
            self.layers.append([kernel, np.zeros(width)])

    def embed(self, x, first):
        before = x @ self.layers[first][0] + self.layers[first][1]
        return before, np.maximum(before, 0) @ self.layers[first + 1][0] + self.layers[first + 1][1]

    def cosine(self, x, t):
        v_i, v_t = self.embed(x, 0)[1], self.embed(t, 2)[1]
        return v_i @ v_t / np.linalg.norm(v_i) / np.linalg.norm(v_t)

    def gradients(self, images, right, wrong):
        """Of the mean over pairs of Eq. 8, -(cos(V_I, V_T) - cos(V_I, V_T of another label))."""
        found = [[np.zeros_like(part) for part in layer] for layer in self.layers]
        for sign, texts in ((-1.0, right), (1.0, wrong)):
            sides = [(0, images, *self.embed(images, 0)), (2, texts, *self.embed(texts, 2))]
            unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for _, _, _, v in sides]
            cosines = (unit[0] * unit[1]).sum(axis=1, keepdims=True)
            for side, (first, inputs, before, v) in enumerate(sides):
                to_v = unit[1 - side] - cosines * unit[side]  # d cos / d v, times |v|
                to_v *= sign / len(images) / np.linalg.norm(v, axis=1, keepdims=True)
                to_before = (to_v @ self.layers[first + 1][0].T) * (before > 0)
                found[first + 1][0] += np.maximum(before, 0).T @ to_v
                found[first + 1][1] += to_v.sum(axis=0)
                found[first][0] += inputs.T @ to_before
                found[first][1] += to_before.sum(axis=0)
        return found


def instance_confidence(features, labels, texts, learned_from, *, width, epochs, seed):
    """Eq. 8-9: trains the network on some images, and gives every image's cosine with its label's text.

    Reading: one random other label for each image, kept; Adam with a rate of 0.001 that falls linearly to 0;
    16 steps a pass of at least 16 and at most 256 images.
    """
    features, texts = np.asarray(features, float), np.asarray(texts, float)
    generator = np.random.default_rng(seed)
    network = TwoSidedNetwork(features.shape[1], texts.shape[1], width, generator)
    x, y = features[learned_from], labels[learned_from]
    other = (y + generator.integers(1, len(texts), len(y))) % len(texts)
    size = min(max(len(y) // 16, 16), 256)
    total, step = epochs * -(-len(y) // size), 0
    first = [[np.zeros_like(part) for part in layer] for layer in network.layers]
    second = [[np.zeros_like(part) for part in layer] for layer in network.layers]
    for _ in range(epochs):
        order = generator.permutation(len(y))
        for start in range(0, len(y), size):
            rows = order[start : start + size]
            gradients = network.gradients(x[rows], texts[y[rows]], texts[other[rows]])
            rate = 0.001 * (1 - step / total)
            step += 1
            for layer, gradient, m, v in zip(network.layers, gradients, first, second, strict=True):
                for part in (0, 1):
                    m[part] = 0.9 * m[part] + 0.1 * gradient[part]
                    v[part] = 0.999 * v[part] + 0.001 * gradient[part] ** 2
                    mean, square = m[part] / (1 - 0.9**step), v[part] / (1 - 0.999**step)
                    layer[part] = layer[part] - rate * mean / (np.sqrt(square) + 1e-8)
    return np.array([network.cosine(x, texts[y]) for x, y in zip(features, labels, strict=True)])


# ---------------------------------------------------------------------------------- Sec. 4.4, Fig. 4


def bag_branch(features, hidden_kernel, hidden_bias, score_kernel, kernel, bias):
    """Attention [B, N_b] and logits [B, C] of bags [B, N_b, D]; reading: tanh between FC2 and FC3."""
    scores = np.tanh(features @ hidden_kernel + hidden_bias) @ score_kernel
    attention = softmax(scores[..., 0])
    return attention, np.einsum("bn,bnd->bd", attention, features) @ kernel + bias


def saliency(attention, bags, count):
    """Attention times the size of the bag, averaged over the bags of an image."""
    seen = [[] for _ in range(count)]
    for row, ids in zip(attention, bags, strict=True):
        for a, i in zip(row, ids, strict=True):
            seen[i].append(a * len(row))
    return np.array([np.mean(values) if values else 1.0 for values in seen])


# ------------------------------------------------------------------------------------ Sec. 4.5, Eq. 10


def soft_targets(labels, predicted, num_classes):
    """Rows beta e(given) w + (1 - beta) e(predicted) w over w, where Eq. 6 has w = 0 for other labels."""
    targets = np.zeros((len(labels), num_classes))
    for row, given, supposed in zip(targets, labels, predicted, strict=True):
        row[given] += BETA
        if supposed == given:  # else its cluster weight is "0 otherwise"
            row[supposed] += 1 - BETA
    return targets


def batch_loss(instance_logits, targets, weights, bag_logits, bag_labels, weight_of_bags=1.0):
    """The loss of a step: weighted cross entropy of images, and plain cross entropy of bags, each a mean."""
    of_images = -(targets * np.log(softmax(instance_logits))).sum(axis=-1)
    of_bags = -np.log(softmax(bag_logits))[np.arange(len(bag_labels)), bag_labels]
    return (weights * of_images).mean() + weight_of_bags * of_bags.mean()
