"""What TensorFlow Serving wants beside a SavedModel: warm-up requests, the list of models, how to start.

In: a directory of exports, `<directory>/<name>/<version>/saved_model.pb`. Out:

    <name>/<version>/assets.extra/tf_serving_warmup_requests   replayed before a version is served
    models.config      all models of the directory; see `models_config`
    batching.config    which sizes of batches are computed; one of each is replayed before
    monitoring.config  metrics for Prometheus

A version that is added later is served from then on, and the one before it is unloaded.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.store import write_text

IMAGE = "tensorflow/serving:2.20.0"  # of the TensorFlow that wrote the models
CONFIG, BATCHING, MONITORING = "models.config", "batching.config", "monitoring.config"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
ALLOWED_BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # images that are computed at once; fewer are filled up
METRICS_PATH = "/monitoring/prometheus/metrics"
GRPC_PORT, REST_PORT = 8500, 8501
IN_CONTAINER = "/models"
_IN_CONTAINER_BESIDE = "/config"  # files that are not in the directory of exports

_BATCHING_TEXT = f"""\
# Images of several requests are computed together, in one of these sizes; missing ones are filled up. The
# warm-up requests of an export hold one of each size, so none is slow when it first comes.
max_batch_size {{ value: {ALLOWED_BATCH_SIZES[-1]} }}  # larger requests are split
{chr(10).join(f"allowed_batch_sizes: {size}" for size in ALLOWED_BATCH_SIZES)}
batch_timeout_micros {{ value: 1000 }}  # that a request waits for others
num_batch_threads {{ value: 4 }}  # batches at a time; each decodes its images, so more need more memory
max_enqueued_batches {{ value: 32 }}  # what comes on top of them is answered UNAVAILABLE
"""
_MONITORING_TEXT = f"""\
prometheus_config {{
  enable: true
  path: "{METRICS_PATH}"
}}
"""


def write_warm_up(version_dir: str | os.PathLike, name: str, images: Sequence[bytes]) -> None:
    """Writes one request for each signature of a SavedModel and each of ALLOWED_BATCH_SIZES.

    Without them the first requests of users pay for what TensorFlow sets up at its first call.

    Args:
      version_dir: holds `saved_model.pb`.
      name: of the model.
      images: encoded images for the signatures that take bytes; repeated where they are too few.
        Signatures of float images get gray ones.

    Raises:
      UsageError: no image, or a signature whose input is neither bytes nor images.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    if not images:
        raise UsageError("Expected an image for the warm-up requests; received none.")
    version_dir = pathlib.Path(version_dir)
    path = version_dir / WARM_UP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for signature_name, signature in read_signatures(version_dir).items():
            for batch in ALLOWED_BATCH_SIZES:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name, request.model_spec.signature_name = name, signature_name
                for alias, tensor in signature.inputs.items():
                    request.inputs[alias].CopyFrom(_build_input(tensor, images, batch))
                writer.write(log.SerializeToString())


def read_signatures(version_dir: str | os.PathLike) -> dict:
    """Name → SignatureDef of what a SavedModel serves, sorted by name; the model is not loaded."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((pathlib.Path(version_dir) / "saved_model.pb").read_bytes())
    (graph,) = (g for g in saved_model.meta_graphs if "serve" in g.meta_info_def.tags)
    return {name: s for name, s in sorted(graph.signature_def.items()) if not name.startswith("__")}


def find_versions(directory: str | os.PathLike) -> list[int]:
    """The versions of a model that TF Serving would find in its directory, in ascending order."""
    paths = pathlib.Path(directory).glob("*/saved_model.pb")
    return sorted(int(p.parent.name) for p in paths if p.parent.name.isdecimal())


def write_server_files(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Writes `batching.config` and `monitoring.config` where they are missing; returns what it wrote."""
    written = []
    for name, text in ((BATCHING, _BATCHING_TEXT), (MONITORING, _MONITORING_TEXT)):
        path = pathlib.Path(directory) / name
        if not os.path.lexists(path):  # somebody's own settings stay
            write_text(path, text)
            written.append(path)
    return written


def server_flags(config: str | os.PathLike, beside: str | os.PathLike) -> list[str]:
    """Flags of `tensorflow_model_server` for the files of this module.

    Args:
      config: the list of models.
      beside: directory of the other files, as the server sees it.
    """
    return [
        f"--model_config_file={os.fspath(config)}",
        "--allow_version_labels_for_unavailable_models=true",  # else none is set at the start
        "--enable_batching=true",
        f"--batching_parameters_file={os.fspath(pathlib.PurePosixPath(beside, BATCHING))}",
        f"--monitoring_config_file={os.fspath(pathlib.PurePosixPath(beside, MONITORING))}",
    ]


def parse_models_config(text: str) -> Any:
    """A list of models as a `ModelServerConfig`; ValueError where it is none that a model can be added to."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.Error as error:
        raise ValueError(str(error)) from None
    if config.HasField("custom_model_config"):
        raise ValueError("it has a custom_model_config")
    return config


def format_models_config(config: Any) -> str:
    """The text of a `ModelServerConfig`."""
    from google.protobuf import text_format

    return text_format.MessageToString(config, as_utf8=True)


def draw_photo() -> bytes:
    """A JPEG file of the size that photographs on the web have, without a person or a right in it."""
    import io

    from PIL import Image

    ramps = [Image.linear_gradient("L").rotate(90 * turns).resize((500, 375)) for turns in range(3)]
    file = io.BytesIO()
    Image.merge("RGB", ramps).save(file, "JPEG", quality=90)
    return file.getvalue()


def docker_command(
    directory: str | os.PathLike,
    *,
    name: str | None = None,
    config: str | os.PathLike | None = None,
    container: str | None = None,
    host: str = "127.0.0.1",
    rest_port: int = REST_PORT,
    grpc_port: int = GRPC_PORT,
    flags: Sequence[str] = (),
) -> list[str]:
    """The `docker run` that serves the models of a directory, for `shlex.join` or `subprocess`.

    Args:
      directory: of the exports.
      name: of the only model that the container may see; None = all.
      config: file with the list of models, beside which `write_server_files` wrote; None = those of the
        directory, which are looked at every minute, so that a changed list needs no new start.
      container: the container's name; None = Docker makes one up.
      host: address that the ports listen on; 0.0.0.0 = all, so that other machines reach them.
      rest_port: of the HTTP interface, on the host.
      grpc_port: of the gRPC interface, on the host.
      flags: more of `tensorflow_model_server`.
    """

    def mount(source: str | os.PathLike, target: str) -> list[str]:
        # Unlike --volume, this fails where the directory is missing; docker's parser is CSV's.
        field = f"source={pathlib.Path(source).resolve()}"
        return ["--mount", f"type=bind,{_csv(field)},{_csv(f'target={target}')},readonly"]

    beside = IN_CONTAINER if config is None else _IN_CONTAINER_BESIDE
    address = f"[{host}]" if ":" in host else host
    return [
        "docker", "run", "--rm", "--init",  # the image's start script would not pass a signal on
        *(["--name", container] if container else []),
        "--publish", f"{address}:{rest_port}:{REST_PORT}",
        "--publish", f"{address}:{grpc_port}:{GRPC_PORT}",
        *(mount(pathlib.Path(directory, name), f"{IN_CONTAINER}/{name}") if name else
          mount(directory, IN_CONTAINER)),
        *(mount(pathlib.Path(config).parent, beside) if config is not None else []),
        IMAGE, *server_flags(f"{beside}/{CONFIG}", beside),
        *(["--model_config_file_poll_wait_seconds=60"] if config is None else []), *flags,
    ]  # fmt: skip


def _csv(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(sign in field for sign in ',"') else field


def _build_input(tensor: Any, images: Sequence[bytes], batch: int) -> Any:
    """The TensorProto of one input, `batch` rows."""
    import tensorflow as tf

    if tensor.dtype == tf.string.as_datatype_enum:
        return tf.make_tensor_proto([images[i % len(images)] for i in range(batch)], tf.string)
    shape = [batch, *(d.size for d in tensor.tensor_shape.dim[1:])]
    if tensor.dtype != tf.float32.as_datatype_enum or min(shape) < 0:
        raise UsageError(f"Expected a signature of bytes or float32 images; {tensor.name} is neither.")
    # One value stands for all, so that the file stays small.
    gray = tf.make_tensor_proto([127.5], tf.float32)
    gray.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return gray
