"""ConvNeXt in numpy, from tensors as timm, torchvision, Hugging Face and its authors name them; and by torch.

Written after the paper and the names of the libraries, apart from the package, which is held against it.

  python tests/models/convnext_reference.py LIBRARY SIDE FOLDER

writes FOLDER/x.safetensors and FOLDER/features.npy by timm, torchvision or transformers, with drawn weights.
"""

import math
import pathlib
import sys
import zlib

import numpy as np

LIBRARIES = ("timm", "torchvision", "huggingface", "authors")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TINY = ((3, 3, 9, 3), (96, 192, 384, 768))
_BLOCK = {  # depthwise, norm, up, down, scale; behind the prefix of the block
    "timm": ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
    "torchvision": ("block.0", "block.2", "block.3", "block.5", "layer_scale"),
    "huggingface": ("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
    "authors": ("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
}


def block_prefix(library, stage, block):
    return {
        "timm": f"stages.{stage}.blocks.{block}.",
        "torchvision": f"features.{2 * stage + 1}.{block}.",
        "huggingface": f"convnext.encoder.stages.{stage}.layers.{block}.",
        "authors": f"stages.{stage}.{block}.",
    }[library]


def down_names(library, stage):
    """(normalization, convolution) in front of a stage."""
    start = {
        "timm": f"stages.{stage}.downsample",
        "torchvision": f"features.{2 * stage}",
        "huggingface": f"convnext.encoder.stages.{stage}.downsampling_layer",
        "authors": f"downsample_layers.{stage}",
    }[library]
    return f"{start}.0", f"{start}.1"


def end_names(library):
    """(convolution of the stem, its normalization, that of the head, classifier)."""
    return {
        "timm": ("stem.0", "stem.1", "head.norm", "head.fc"),
        "torchvision": ("features.0.0", "features.0.1", "classifier.0", "classifier.2"),
        "huggingface": (
            "convnext.embeddings.patch_embeddings", "convnext.embeddings.layernorm", "convnext.layernorm",
            "classifier",
        ),
        "authors": ("downsample_layers.0.0", "downsample_layers.0.1", "norm", "head"),
    }[library]  # fmt: skip


def shapes(library, depths, widths, classes=10):
    """Name → shape of all tensors of a checkpoint."""
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    conv, norm, head, classifier = end_names(library)
    layer(conv, widths[0], 3, 4, 4), layer(norm, widths[0])
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            norm, conv = down_names(library, stage)
            layer(norm, widths[stage - 1]), layer(conv, width, widths[stage - 1], 2, 2)
        for block in range(depth):
            start = block_prefix(library, stage, block)
            depthwise, norm, up, down, scale = (start + part for part in _BLOCK[library])
            layer(depthwise, width, 1, 7, 7), layer(norm, width)
            layer(up, 4 * width, width), layer(down, width, 4 * width)
            found[scale] = (width, 1, 1) if library == "torchvision" else (width,)
    layer(head, widths[-1]), layer(classifier, classes, widths[-1])
    return found


def drawn(name, shape):
    """float32 numbers that depend on the tensor's name and shape only, of sizes that keep activations."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) in (2, 4):
        values = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
    elif name.endswith("bias"):
        values = rng.normal(0, 0.2, shape)
    else:  # factors of normalization, and layer scales, far above the 1e-6 that they start from
        values = rng.uniform(0.3, 0.9, shape)
    return values.astype("float32")


def drawn_checkpoint(library, depths, widths):
    return {name: drawn(name, shape) for name, shape in shapes(library, depths, widths).items()}


def drawn_images(side):
    """float32 [2, side, side, 3], 0..255."""
    return np.random.default_rng(side).uniform(0, 255, (2, side, side, 3)).astype("float32")


def normalized(x, tensors, name, epsilon=1e-6):
    """Layer normalization over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def patches(x, tensors, name):
    """A convolution whose stride is its side, on [B, H, W, C]; what is left over at the ends is dropped."""
    kernel, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    side, (batch, height, width, channels) = kernel.shape[-1], x.shape
    x = x[:, : height // side * side, : width // side * side]
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return np.einsum("bhiwjc,ocij->bhwo", x, kernel, optimize=True) + bias


def depthwise(x, tensors, name):
    """7 x 7 within each channel, zeros around."""
    kernel, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    total = np.zeros_like(x)
    for i in range(7):
        for j in range(7):
            total += padded[:, i : i + height, j : j + width] * kernel[:, 0, i, j]
    return total + bias


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def dense(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def features_of(images, tensors, library, depths):
    """float64 [B, D] from images 0..255."""
    tensors = {name: tensor.astype("float64") for name, tensor in tensors.items()}
    conv, norm, head, _ = end_names(library)
    x = normalized(patches((images / 255 - MEAN) / STD, tensors, conv), tensors, norm)
    for stage, depth in enumerate(depths):
        if stage:
            norm, conv = down_names(library, stage)
            x = patches(normalized(x, tensors, norm), tensors, conv)
        for block in range(depth):
            start = block_prefix(library, stage, block)
            spread, norm, up, down, scale = (start + part for part in _BLOCK[library])
            y = normalized(depthwise(x, tensors, spread), tensors, norm)
            y = dense(gelu(dense(y, tensors, up)), tensors, down)
            x = x + y * tensors[scale].reshape(-1)
    epsilon = 1e-12 if library == "huggingface" else 1e-6
    return normalized(x.mean((1, 2)), tensors, head, epsilon)


def torch_module(library):
    """(ConvNeXt-Tiny, images → features) of a library."""
    import torch

    if library == "timm":
        import timm

        module = timm.create_model("convnext_tiny", num_classes=10)
        return module, lambda x: module.forward_head(module.forward_features(x), pre_logits=True)
    if library == "torchvision":
        import torchvision

        module = torchvision.models.convnext_tiny(num_classes=10)
        return module, lambda x: torch.flatten(module.classifier[0](module.avgpool(module.features(x))), 1)
    import transformers

    module = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=10))
    return module, lambda x: module.convnext(x).pooler_output


def write_by_torch(library, side, folder):
    import safetensors.torch
    import torch

    module, compute = torch_module(library)
    module.eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(torch.from_numpy(drawn(name, tuple(tensor.shape))))
        images = (drawn_images(side) / 255 - MEAN) / STD
        found = compute(torch.from_numpy(images.transpose(0, 3, 1, 2).astype("float32")))
    folder = pathlib.Path(folder)
    safetensors.torch.save_file(module.state_dict(), folder / "x.safetensors")
    np.save(folder / "features.npy", found.numpy())


if __name__ == "__main__":
    write_by_torch(sys.argv[1], int(sys.argv[2]), sys.argv[3])
