"""URNet on features and noisy labels of your own, with plain `compile` and `fit`.

    python experiments/examples/fit_urnet.py [DATA.npz]

The file holds features [N, D], labels [N], test_features and test_labels; else noisy Gaussian ones are
drawn. Images become features by `build_backbone(...).predict`."""

import sys

import urnet_tf  # isort: skip  (before keras: switches on TensorFlow's fast kernels)
import keras
import numpy as np

from urnet_tf.feed.batches import FeatureBatches
from urnet_tf.feed.sampling import BagSampler
from urnet_tf.models.urnet import instance_branch


def draw_data(rng, num_classes=10, dim=64):
    """Classes of 200 to 20 points, 45 % with a label drawn at random; clean points to test on."""
    sizes, centers = np.linspace(200, 20, num_classes).astype(int), 0.6 * rng.normal(size=(num_classes, dim))
    labels, test_labels = np.repeat(np.arange(num_classes), sizes), np.repeat(np.arange(num_classes), 200)
    truth = np.where(rng.random(len(labels)) < 0.45, rng.permutation(labels), labels)
    x, test_x = (centers[t] + rng.normal(size=(len(t), dim)) for t in (truth, test_labels))
    return {"features": x, "labels": labels, "test_features": test_x, "test_labels": test_labels}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    data = np.load(sys.argv[1]) if len(sys.argv) > 1 else draw_data(np.random.default_rng(0))
    x, labels, num_classes = data["features"], data["labels"], int(data["labels"].max()) + 1
    # Rare classes count more; labels that out-of-fold predictions and groups of look-alikes doubt count less.
    table = urnet_tf.compute_weights(labels, features=x, alpha=1.0)
    weights, ones = table["sample_weight"].to_numpy(), np.ones(len(labels), np.float32)
    for name, w in {"baseline": ones, "weighted": weights}.items():
        bags = BagSampler(np.arange(len(labels)), labels, bag_size=3, batch_bags=21, seed=0)
        batches = FeatureBatches(x, bags, labels[:, None], ones[:, None], w, bag=True)
        model = urnet_tf.build_urnet(x.shape[1], num_classes, bag_size=3)
        loss = urnet_tf.SparseSoftCrossEntropy()
        model.compile(optimizer="adamw", loss={"instance": loss, "bag": loss})
        model.fit(batches.dataset(0, 20 * batches.steps_per_epoch), shuffle=False, verbose=0)  # (x, y, w)
        predicted = instance_branch(model).predict(data["test_features"], verbose=0).argmax(axis=1)
        print(f"{name}: accuracy {np.mean(predicted == data['test_labels']):.3f}")
