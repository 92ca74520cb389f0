"""ResNeXts with weights drawn from a formula, computed by PyTorch: what the Keras ones are held against.

The tests run this file with an interpreter that has PyTorch; `drawn_tensor` and `drawn_images` need
numpy only and give both sides the same numbers.

  python tests/models/torch_reference.py golden > tests/models/golden_resnext.json
  python tests/models/torch_reference.py checkpoint FOLDER FORMAT SIDE '{"depth": 50, …}'

The second one writes FOLDER/weights and FOLDER/logits.npy; FORMAT is zip, legacy or safetensors.
"""

import json
import pathlib
import sys
import zlib

import numpy as np

CLASSES = 10
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SMALL = {"depth": 26, "cardinality": 4, "width_per_group": 8}
# Each option, alone and with others, and odd sides, where paddings that are wrong show.
GOLDEN = {
    "resnext26": (64, SMALL),
    "resnext26, 71 px": (71, SMALL),
    "resnet26": (71, {"depth": 26, "cardinality": 1, "width_per_group": 64}),
    "seresnext26": (64, SMALL | {"squeeze_excitation": True}),
    "resnext26d": (71, SMALL | {"deep_stem": True}),
    "seresnext26d": (64, SMALL | {"squeeze_excitation": True, "deep_stem": True}),
    "resnext26, small stem": (33, SMALL | {"small_stem": True}),
    "resnext26d, small stem": (33, SMALL | {"deep_stem": True, "small_stem": True}),
    "resnext50_32x4d": (64, {"depth": 50, "cardinality": 32, "width_per_group": 4}),
}


def drawn_tensor(name, shape):
    """float32 numbers that depend on the tensor's name and shape only; they make logits of a few units."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4:  # a kernel OIHW, scaled to keep the size of activations
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    elif len(shape) == 2:  # the classifier
        values = rng.normal(0, np.sqrt(1 / shape[1]), shape)
    elif name.endswith("bn3.weight"):  # small, as training leaves it: the sums of many blocks stay small
        values = rng.uniform(0.1, 0.25, shape)
    elif name.endswith(("running_mean", "bias")):
        values = rng.normal(0, 0.2, shape)
    else:  # running_var, and the factors of batch normalization
        values = rng.uniform(0.5, 1.5, shape)
    return values.astype("float32")


def drawn_images(side):
    """float32 [2, side, side, 3], 0..255."""
    return np.random.default_rng(side).uniform(0, 255, (2, side, side, 3)).astype("float32")


def torch_logits(side, keywords):
    """(module, logits float32 [2, CLASSES]) of PyTorch."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"))
    import torch
    from torch_resnext import build_torch_resnext

    module = build_torch_resnext(**keywords, num_classes=CLASSES).eval()
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(drawn_tensor(name, tuple(tensor.shape))))
    images = (drawn_images(side) / 255 - MEAN) / STD
    with torch.no_grad():
        logits = module(torch.from_numpy(images.transpose(0, 3, 1, 2).astype("float32")))
    return module, logits.numpy()


def write_golden():
    """The logits of the first image, to eight digits, for every network of GOLDEN."""
    rows = {name: torch_logits(*case)[1][0] for name, case in GOLDEN.items()}
    golden = {name: [float(f"{value:.8g}") for value in logits] for name, logits in rows.items()}
    note = "Written by: python tests/models/torch_reference.py golden > tests/models/golden_resnext.json"
    print(json.dumps({"note": note, "logits": golden}, indent=1))


def write_checkpoint(folder, form, side, keywords):
    """`weights` as PyTorch or safetensors write them, and `logits.npy`."""
    import torch

    module, logits = torch_logits(int(side), json.loads(keywords))
    folder = pathlib.Path(folder)
    np.save(folder / "logits.npy", logits)
    if form == "safetensors":
        import safetensors.torch

        safetensors.torch.save_file(module.state_dict(), folder / "weights")
    else:
        zipped = form == "zip"
        torch.save(module.state_dict(), folder / "weights", _use_new_zipfile_serialization=zipped)


if __name__ == "__main__":
    {"golden": write_golden, "checkpoint": write_checkpoint}[sys.argv[1]](*sys.argv[2:])
