"""EfficientNetV2 in plain operations of TensorFlow, from tensors as timm names them; and by timm itself.

Written after the paper and timm's names, apart from the package, which is held against it.

  python tests/models/efficientnet_v2_reference.py NAME SIDE FOLDER

writes FOLDER/x.safetensors and FOLDER/features.npy by timm (`tf_efficientnetv2_s`), with drawn weights.
"""

import pathlib
import sys
import zlib

import numpy as np

EPSILON = 1e-3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def drawn(name, shape):
    """float32 numbers that depend on the tensor's name and shape only, of sizes that keep activations."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) in (2, 4):  # what is added up over many blocks is kept small, as training leaves it
        scale = 0.4 if "conv_pwl" in name else 1.0
        values = rng.normal(0, scale * np.sqrt(2 / np.prod(shape[1:])), shape)
    elif name.endswith(("running_mean", "bias")):
        values = rng.normal(0, 0.2, shape)
    else:
        values = rng.uniform(0.5, 1.2, shape)
    return values.astype("float32")


def drawn_images(side):
    """float32 [2, side, side, 3], 0..255, the second one darker."""
    images = np.random.default_rng(side).uniform(0, 255, (2, side, side, 3))
    return (images * np.array([1.0, 0.3])[:, None, None, None]).astype("float32")


def seen(images, name):
    """As Google trained them: the B networks by ImageNet's mean and deviation, the others by 128 and 128.

    timm takes 127.5 for the latter.
    """
    return (images / 255 - MEAN) / STD if "_b" in name else images / 128 - 1


def features_of(images, tensors, name, strides):
    """float32 [B, D]; `strides` are of the stages."""
    import tensorflow as tf

    def convolved(x, layer, stride=1, depthwise=False):
        kernel = tensors[f"{layer}.weight"]
        if depthwise:
            kernel = kernel.transpose(2, 3, 0, 1)
            return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        x = tf.nn.conv2d(x, kernel.transpose(2, 3, 1, 0), stride, "SAME")
        return x + tensors[f"{layer}.bias"] if f"{layer}.bias" in tensors else x

    def normalized(x, layer):
        weight, bias, mean, variance = (
            tensors[f"{layer}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + EPSILON) * weight + bias

    def block(x, start, stride):
        y = x
        if f"{start}conv_dw.weight" in tensors:
            y = tf.nn.silu(normalized(convolved(y, f"{start}conv_pw"), f"{start}bn1"))
            y = tf.nn.silu(normalized(convolved(y, f"{start}conv_dw", stride, True), f"{start}bn2"))
            gate = tf.reduce_mean(y, (1, 2), keepdims=True)
            gate = tf.nn.silu(convolved(gate, f"{start}se.conv_reduce"))
            y = y * tf.sigmoid(convolved(gate, f"{start}se.conv_expand"))
            y = normalized(convolved(y, f"{start}conv_pwl"), f"{start}bn3")
        elif f"{start}conv_exp.weight" in tensors:
            y = tf.nn.silu(normalized(convolved(y, f"{start}conv_exp", stride), f"{start}bn1"))
            y = normalized(convolved(y, f"{start}conv_pwl"), f"{start}bn2")
        else:
            y = tf.nn.silu(normalized(convolved(y, f"{start}conv", stride), f"{start}bn1"))
        return x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y

    x = tf.constant(seen(images, name), tf.float32)
    x = tf.nn.silu(normalized(convolved(x, "conv_stem", 2), "bn1"))
    for stage, stride in enumerate(strides):
        number = 0
        while any(key.startswith(f"blocks.{stage}.{number}.") for key in tensors):
            x = block(x, f"blocks.{stage}.{number}.", 1 if number else stride)
            number += 1
    x = tf.nn.silu(normalized(convolved(x, "conv_head"), "bn2"))
    return tf.reduce_mean(x, (1, 2)).numpy()


def write_by_timm(name, side, folder):
    import safetensors.torch
    import timm
    import torch

    module = timm.create_model(name, num_classes=10).eval()
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(drawn(key, tuple(tensor.shape))))
        images = seen(drawn_images(side), name).transpose(0, 3, 1, 2).astype("float32")
        found = module.forward_head(module.forward_features(torch.from_numpy(images)), pre_logits=True)
    folder = pathlib.Path(folder)
    safetensors.torch.save_file(module.state_dict(), folder / "x.safetensors")
    np.save(folder / "features.npy", found.numpy())


if __name__ == "__main__":
    write_by_timm(sys.argv[1], int(sys.argv[2]), sys.argv[3])
