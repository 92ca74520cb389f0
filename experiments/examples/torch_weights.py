"""Trains a timm model in PyTorch with the weights and soft targets of a finished run.

    pip install torch timm
    python experiments/examples/torch_weights.py WORKDIR IMAGES [MODEL] [EPOCHS]

WORKDIR is that of `urnet run`, IMAGES the folder that the paths of its weights.parquet start from.
"""

import pathlib
import sys

import numpy as np
import pyarrow.parquet
from PIL import Image


def read_weights(workdir):
    """Paths [N], sample weights float32 [N] of mean 1, and soft targets: ids int64, probs float32 [N, K]."""
    folder = pathlib.Path(workdir, "reweight")
    table = pyarrow.parquet.read_table(folder / "weights.parquet", columns=["path", "sample_weight"])
    ids, probs = (np.load(folder / f"target_{part}.npy") for part in ("ids", "probs"))
    return table["path"].to_pylist(), table["sample_weight"].to_numpy(), ids.astype(np.int64), probs


class WeightedImages:
    """A map-style dataset of (image, target ids, target probabilities, weight)."""

    def __init__(self, workdir, images, transform):
        self.paths, self.weights, self.ids, self.probs = read_weights(workdir)
        self.images, self.transform = pathlib.Path(images), transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        image = Image.open(self.images / self.paths[row]).convert("RGB")
        return self.transform(image), self.ids[row], self.probs[row], self.weights[row]


def train(workdir, images, model_name="resnet18", epochs=1, batch_size=32, pretrained=True):
    """Trains and returns the model and the mean loss of the last pass."""
    import timm
    import torch

    classes = int(read_weights(workdir)[2].max()) + 1
    model = timm.create_model(model_name, pretrained=pretrained, num_classes=classes)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=True)
    data = WeightedImages(workdir, images, transform)
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(epochs):
        losses = []
        for x, ids, probs, weights in loader:
            log_probs = torch.log_softmax(model(x), dim=1).gather(1, ids)  # an id may occur twice: it adds
            loss = -(weights * (probs * log_probs).sum(dim=1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return model, float(np.mean(losses))


if __name__ == "__main__":
    workdir, images, *rest = sys.argv[1:]
    model, loss = train(workdir, images, *rest[:1], **({"epochs": int(rest[1])} if len(rest) > 1 else {}))
    print(f"loss of the last pass: {loss:.3f}")
