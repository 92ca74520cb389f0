"""One row of bench_serving.py: a process that opens one format of a classifier and answers when asked.

    python serving_worker.py '{"row": "saved_model_bytes", "arch": "efficientnet_lite0", …}'

The row `write` makes the files for all others and ends. The rest speak JSON lines: each says once that
it is there, then reads requests `BATCH CALLS` and answers each with the seconds of every call. Between
requests it waits on its input. A call begins with what a client has (encoded files, or pixels as a
numpy array) and ends when the answer is there as a numpy array.
"""

import dataclasses
import io
import json
import os
import pathlib
import sys
import time

import urnet_tf  # noqa: F401  before TensorFlow: switches oneDNN on as the program does

CLASSES = 1000
PHOTO_PX = (500, 375)
TFLITE_KINDS = ("float32", "float16", "dynamic_int8", "int8")


def draw_photos(count, size=PHOTO_PX):
    """JPEG files of about 50 kB, as detailed photographs of this size have."""
    import numpy as np
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    for _ in range(count):
        smooth = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(smooth.resize(size, Image.Resampling.BICUBIC)).astype(int)
        pixels += generator.integers(-12, 13, (*pixels.shape[:2], 1))  # grain: costs bytes, as detail does
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def draw_pixels(spec, dtype="float32"):
    """[32, S, S, 3], 0..255."""
    import numpy as np

    side = spec["image_size_px"]
    return np.random.default_rng(0).integers(0, 256, (32, side, side, 3)).astype(dtype)


# ------------------------------------------------------------------------------------- the files
def write(spec):
    """Writes every format of a random classifier into the directory; returns the bytes of each."""
    import keras

    from urnet_tf.export import saved_model, tflite
    from urnet_tf.export.preparation import Preparation
    from urnet_tf.models.backbone import build_backbone
    from urnet_tf.models.classifier import LOGITS, build_image_classifier
    from urnet_tf.models.variants import VARIANTS

    keras.utils.set_random_seed(0)
    directory, size = pathlib.Path(spec["directory"]), spec["image_size_px"]
    if variant := VARIANTS.get(spec["arch"]):
        backbone = build_backbone("resnext", size, None, **dataclasses.asdict(variant))
    else:
        backbone = build_backbone(spec["arch"], size, None)
    model = build_image_classifier(backbone, CLASSES, dropout=0.0)
    kernel = model.get_layer(LOGITS).kernel
    kernel.assign(keras.random.normal(kernel.shape, stddev=0.05))
    preparation = Preparation(size, short_side_px=spec["short_side_px"] or None)
    labels, sizes = [str(i) for i in range(CLASSES)], {}
    for grouped in spec["grouped_convolutions"]:
        path = directory / f"saved_model_{grouped}"
        saved_model.write_saved_model(model, labels, path, preparation, grouped_convolution=grouped)
        sizes[path.name] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if spec["saved_models_only"]:
        return sizes
    model.save(directory / "model.keras")
    _write_onnx(model, directory, labels, preparation)
    if not spec["tflite"]:
        return sizes
    calibration = Preparation(size).decode(draw_photos(32))[0].numpy()
    for kind in TFLITE_KINDS:
        path = directory / f"{kind}.tflite"
        tflite.write_tflite(model, path, image_size_px=size, kind=kind, calibration=calibration)
    return sizes | {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}


def _write_onnx(model, directory, labels, preparation):
    """An ONNX file, and what a server needs to know of it; nothing where the converter is not installed."""
    from urnet_tf.errors import RunError, UsageError
    from urnet_tf.export.onnx_file import write_onnx

    try:
        write_onnx(model, directory / "model.onnx", preparation.image_size_px, labels, preparation)
    except (RunError, UsageError) as error:
        print(f"no model.onnx: {error}", file=sys.stderr)
    (directory / "labels.txt").write_text("\n".join(labels) + "\n")
    (directory / "export.json").write_text(json.dumps({"preparation": preparation.to_dict()}))


# --------------------------------------------------------------------------- answers of one format
def open_saved_model(spec):
    """Either signature, through TensorFlow's own loader."""
    tf = _tensorflow(spec)
    model = tf.saved_model.load(os.path.join(spec["directory"], spec["file"]))
    if spec["row"].endswith("bytes"):
        photos, signature = draw_photos(32), model.signatures["serving_default"]
        return lambda batch: signature(image_bytes=tf.constant(photos[:batch]))["probabilities"].numpy()
    pixels, signature = draw_pixels(spec), model.signatures["tensor"]

    def answer(batch, model=model):  # which must live as long as its signature is called
        return signature(images=tf.constant(pixels[:batch]))["probabilities"].numpy()

    return answer


def open_keras(spec):
    """`keras.Model.predict`, or a function of the same model that TensorFlow has compiled."""
    tf = _tensorflow(spec)
    from urnet_tf.training.saving import load_model

    model = load_model(os.path.join(spec["directory"], "model.keras"))
    pixels = draw_pixels(spec)
    if spec["row"] == "keras_predict":
        return lambda batch: model.predict(pixels[:batch], batch_size=batch, verbose=0)
    function = tf.function(lambda images: tf.nn.softmax(model(images, training=False)))
    return lambda batch: function(tf.constant(pixels[:batch])).numpy()


def open_tflite(spec):
    """One image a call, in the type that the file takes."""
    from ai_edge_litert.interpreter import Interpreter

    path = os.path.join(spec["directory"], spec["file"])
    interpreter = Interpreter(model_path=path, num_threads=spec["tflite_threads"])
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    pixels = draw_pixels(spec, entry["dtype"])

    def answer(batch):
        for image in pixels[:batch]:
            interpreter.set_tensor(entry["index"], image[None])
            interpreter.invoke()
            interpreter.get_tensor(result["index"])

    return answer


def open_onnx(spec):
    """onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    path, providers = os.path.join(spec["directory"], spec["file"]), ["CPUExecutionProvider"]
    session, pixels = onnxruntime.InferenceSession(path, options, providers), draw_pixels(spec)
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: pixels[:batch]})[0]


def open_openvino(spec):
    """OpenVINO, on the ONNX file."""
    import openvino

    core, pixels = openvino.Core(), draw_pixels(spec)
    config = {"INFERENCE_NUM_THREADS": spec["threads"]}
    compiled = core.compile_model(os.path.join(spec["directory"], spec["file"]), "CPU", config)
    return lambda batch: compiled(pixels[:batch])[0]


def open_torch(spec):
    """The same architecture in PyTorch, eager, channels last."""
    import torch

    torch.set_num_threads(spec["threads"])
    if spec["variant"]:
        from torch_resnext import build_torch_resnext  # of this directory

        model = build_torch_resnext(**spec["variant"], num_classes=CLASSES)
    else:
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0", num_classes=CLASSES)
    model = model.to(memory_format=torch.channels_last).eval()
    pixels = torch.from_numpy(draw_pixels(spec)).permute(0, 3, 1, 2)  # is channels last

    def answer(batch):
        with torch.inference_mode():
            images = (pixels[:batch] - 127.0) / 128.0  # the others normalize inside, too
            return torch.softmax(model(images), 1).numpy()

    return answer


def _tensorflow(spec):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(spec["threads"])
    return tf


OPEN = {
    "saved": open_saved_model, "keras": open_keras, "tflite": open_tflite, "torch": open_torch,
    "onnxruntime": open_onnx, "openvino": open_openvino,
}  # fmt: skip


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not mix with the answers

    def tell(value):
        print(json.dumps(value), file=answers, flush=True)

    spec = json.loads(sys.argv[1])
    if spec["row"] == "write":
        return tell(write(spec))
    answer = OPEN[spec["row"].split("_")[0]](spec)
    tell("ready")
    for request in sys.stdin:
        batch, calls = map(int, request.split())
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            answer(batch)
            seconds.append(time.perf_counter() - start)
        tell(seconds)


if __name__ == "__main__":
    main()
