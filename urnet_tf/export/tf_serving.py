"""What TensorFlow Serving wants beside a SavedModel: warm-up requests, the list of models, how to start.

In: a directory of exports, `<directory>/<name>/<version>/saved_model.pb`. Out:

    <name>/<version>/assets.extra/tf_serving_warmup_requests   replayed before a version is served
    models.config                                              all models of the directory

A version that is added later is served from then on, and the one before it is unloaded.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from urnet_tf.errors import UsageError
from urnet_tf.store import write_text
from urnet_tf.text_rules import bare

IMAGE = "tensorflow/serving:2.20.0"  # of the TensorFlow that wrote the models
CONFIG = "models.config"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
WARM_UP_BATCHES = (1, 8)
GRPC_PORT, REST_PORT = 8500, 8501
_IN_CONTAINER = "/models"


def write_warm_up(version_dir: str | os.PathLike, name: str, images: Sequence[bytes]) -> None:
    """Writes one request for each signature of a SavedModel and each of WARM_UP_BATCHES.

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
            for batch in WARM_UP_BATCHES:
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


def write_models_config(
    directory: str | os.PathLike,
    names: Iterable[str] | None = None,
    *,
    base_path: str | os.PathLike = _IN_CONTAINER,
    version: int | None = None,
) -> pathlib.Path:
    """Writes the list of models that `tensorflow_model_server --model_config_file=` reads.

    Args:
      directory: where the file goes.
      names: of the models; None = all models of the directory.
      base_path: where the server sees the directory of exports.
      version: the only one to serve; None = always the highest.

    Returns:
      the file's path.
    """
    directory = pathlib.Path(directory)
    if names is None:
        names = sorted(p.name for p in directory.iterdir() if find_versions(p))
    config = _parse_models_config("")
    for name in names:
        _add_entry(config, name, base_path, version)
    write_text(directory / CONFIG, _format_models_config(config))
    return directory / CONFIG


def read_models_config(path: str | os.PathLike) -> Any:
    """A list of models that somebody may have written by hand, as a `ModelServerConfig`.

    Raises:
      UsageError: it cannot be read, or is no list that a model can be added to.
    """
    try:
        return _parse_models_config(pathlib.Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:  # of the decoding or the parsing
        reason = bare(" ".join(str(error).split()), 150)
        raise UsageError(
            f"Expected a list of models for TF Serving in {path}, which is left as it is; {reason}. Correct "
            "it or move it away."
        ) from None


def add_model(path: str | os.PathLike, name: str, *, base_path: str | os.PathLike = _IN_CONTAINER) -> bool:
    """Adds a model to a list of models where it is not in it; nothing else of the file changes.

    Args:
      path: the file; made when missing. A link is followed.
      name: of the model.
      base_path: where the server sees the directory of exports.

    Returns:
      whether a model was added.

    Raises:
      UsageError: as for `read_models_config`.
    """
    path = pathlib.Path(os.path.realpath(path))
    text = ""
    if path.exists():
        if any(entry.name == name for entry in read_models_config(path).model_config_list.config):
            return False
        text = path.read_bytes().decode("utf-8")
    before = _parse_models_config(text)
    wanted = type(before)()
    wanted.CopyFrom(before)
    _add_entry(wanted, name, base_path)
    added = type(before)()
    _add_entry(added, name, base_path)
    body = _format_models_config(added)
    if before.HasField("model_config_list"):
        end = _last_brace(text)
        entry = "\n".join(body.splitlines()[1:-1])  # without the braces of the list
        head = text[:end]
        line_break = "" if head.rstrip(" \t").endswith("\n") else "\n"
        text = f"{head}{line_break}{entry}\n{text[end:]}"
    else:
        text = text + "\n" * (bool(text) and not text.endswith("\n")) + body
    if _parse_models_config(text) != wanted:
        raise UsageError(f"Cannot add {name} to {path}, which is left as it is; add it by hand.")
    write_text(path, text)
    return True


def _parse_models_config(text: str) -> Any:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.Error as error:
        raise ValueError(str(error)) from None
    if config.HasField("custom_model_config"):
        raise ValueError("it has a custom_model_config")
    return config


def _format_models_config(config: Any) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(config, as_utf8=True)


def _add_entry(config: Any, name: str, base_path: str | os.PathLike, version: int | None = None) -> None:
    entry = config.model_config_list.config.add(
        name=name,
        base_path=os.fspath(pathlib.PurePosixPath(base_path, name)),
        model_platform="tensorflow",
    )
    if version is None:
        entry.model_version_policy.latest.num_versions = 1
    else:
        entry.model_version_policy.specific.versions.append(version)


_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[}>]""")


def _last_brace(text: str) -> int:
    """Where the list of models ends, in a text with nothing behind it but comments."""
    return [token.start() for token in _TOKEN.finditer(text) if token[0] in "}>"][-1]


def docker_command(
    directory: str | os.PathLike,
    *,
    name: str | None = None,
    config: str | os.PathLike | None = None,
    container: str | None = None,
    host: str = "127.0.0.1",
    rest_port: int = REST_PORT,
    grpc_port: int = GRPC_PORT,
) -> list[str]:
    """The `docker run` that serves the models of a directory, for `shlex.join` or `subprocess`.

    Args:
      directory: of the exports.
      name: of the only model that the container may see; None = all.
      config: file with the list of models; None = `models.config` in the directory.
      container: the container's name; None = Docker makes one up.
      host: address that the ports listen on; 0.0.0.0 = all, so that other machines reach them.
      rest_port: of the HTTP interface, on the host.
      grpc_port: of the gRPC interface, on the host.
    """

    def mount(source: str | os.PathLike, target: str) -> list[str]:
        # Unlike --volume, this fails where the directory is missing; docker's parser is CSV's.
        field = f"source={pathlib.Path(source).resolve()}"
        return ["--mount", f"type=bind,{_csv(field)},{_csv(f'target={target}')},readonly"]

    seen = f"{_IN_CONTAINER}/{CONFIG}" if config is None else f"/config/{CONFIG}"
    address = f"[{host}]" if ":" in host else host
    return [
        "docker", "run", "--rm", "--init",  # the image's start script would not pass a signal on
        *(["--name", container] if container else []),
        "--publish", f"{address}:{rest_port}:{REST_PORT}",
        "--publish", f"{address}:{grpc_port}:{GRPC_PORT}",
        *(mount(pathlib.Path(directory, name), f"{_IN_CONTAINER}/{name}") if name else
          mount(directory, _IN_CONTAINER)),
        *(mount(config, seen) if config is not None else []),
        IMAGE, f"--model_config_file={seen}",
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
