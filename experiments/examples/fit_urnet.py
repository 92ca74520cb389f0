"""URNet on features and noisy labels of your own, with plain `compile` and `fit`.

    python experiments/examples/fit_urnet.py [DATA.npz]

The file holds features [N, D], labels [N], test_features and test_labels; else noisy Gaussian ones are
drawn. Images become features by `build_backbone(...).predict`."""

import sys

import urnet_tf  # noqa: F401  isort: skip  (before keras: switches on TensorFlow's fast kernels)
import keras
import numpy as np
from sklearn import linear_model, model_selection

from urnet_tf.feed.batches import FeatureBatches
from urnet_tf.feed.sampling import BagSampler
from urnet_tf.models.urnet import build_urnet, instance_branch
from urnet_tf.reweighting import class_weight, cluster_weight, combine, self_confidence
from urnet_tf.training.losses import SparseSoftCrossEntropy


def draw_data(rng, num_classes=10, dim=64):
    """Classes of 200 to 20 points, 45 % with a label drawn at random; clean points to test on."""
    sizes, centres = np.linspace(200, 20, num_classes).astype(int), 0.6 * rng.normal(size=(num_classes, dim))
    labels, test_labels = np.repeat(np.arange(num_classes), sizes), np.repeat(np.arange(num_classes), 200)
    truth = np.where(rng.random(len(labels)) < 0.45, rng.permutation(labels), labels)
    x, test_x = (centres[t] + rng.normal(size=(len(t), dim)) for t in (truth, test_labels))
    return {"features": x, "labels": labels, "test_features": test_x, "test_labels": test_labels}


def compute_weights(x, labels, num_classes):
    """Rare classes count more; labels that out-of-fold predictions and k-means groups doubt count less."""
    rarity = class_weight.compute_class_weight(labels, num_classes=num_classes, alpha=1.0)[labels]
    plain = linear_model.LogisticRegression(max_iter=1000)
    probs = model_selection.cross_val_predict(plain, x, labels, cv=4, method="predict_proba")
    given = probs[np.arange(len(labels)), labels]
    trust = self_confidence.compute_self_confidence_weight(given, labels, num_classes=num_classes)
    purity = np.ones(len(labels))
    for j in range(num_classes):  # how many of the points around belong to class j, too?
        own = labels == j
        around = np.concatenate([x[own], x[~own]])
        groups = cluster_weight.compute_groups(around, own.sum(), clusters=10, pca_dim=32, n_init=3, seed=0)
        purity[own] = cluster_weight.compute_group_score(groups, kind="purity")[groups.group]
    purity = cluster_weight.compute_cluster_weight(purity, labels, num_classes=num_classes)
    return combine.combine_weights([rarity], evidence=[trust, purity])


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    data = np.load(sys.argv[1]) if len(sys.argv) > 1 else draw_data(np.random.default_rng(0))
    x, labels, num_classes = data["features"], data["labels"], int(data["labels"].max()) + 1
    weights, ones = compute_weights(x, labels, num_classes), np.ones(len(labels), np.float32)
    for name, w in {"baseline": ones, "weighted": weights}.items():
        bags = BagSampler(np.arange(len(labels)), labels, bag_size=3, batch_bags=21, seed=0)
        batches = FeatureBatches(x, bags, labels[:, None], ones[:, None], w, bag=True)
        model, loss = build_urnet(x.shape[1], num_classes, bag_size=3), SparseSoftCrossEntropy()
        model.compile(optimizer="adamw", loss={"instance": loss, "bag": loss})
        model.fit(batches.dataset(0, 20 * batches.steps_per_epoch), shuffle=False, verbose=0)  # (x, y, w)
        predicted = instance_branch(model).predict(data["test_features"], verbose=0).argmax(axis=1)
        print(f"{name}: accuracy {np.mean(predicted == data['test_labels']):.3f}")
