"""What is written for TF Serving, and the two clients against servers that keep to its interfaces."""

import base64
import csv
import http.server
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import threading
from concurrent import futures

import numpy as np
import pytest
from urnet_fixtures.exports import read_models_config

from urnet_tf.errors import UsageError
from urnet_tf.export import models_config, tf_serving
from urnet_tf.export.saved_model import open_saved_model

CLIENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples"


@pytest.fixture(scope="module")
def version(tiny_version, tiny_photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny" / "3"
    shutil.copytree(tiny_version, path)
    tf_serving.write_warm_up(path, "tiny", tiny_photos[:3])
    return path


@pytest.fixture(scope="module")
def call(version):
    return open_saved_model(version)


def read_warm_up(version):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(version / tf_serving.WARM_UP)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]


def test_warm_up_requests_fit_the_signatures_and_run(version, call, tiny_photos):
    import tensorflow as tf

    requests = read_warm_up(version)
    kinds = [(r.model_spec.name, r.model_spec.signature_name) for r in requests]
    sizes = tf_serving.ALLOWED_BATCH_SIZES
    assert kinds == [("tiny", n) for n in ("features", "serving_default", "tensor") for _ in sizes]
    signatures = tf_serving.read_signatures(version)
    for number, request in enumerate(requests):
        signature = signatures[request.model_spec.signature_name]
        assert set(request.inputs) == set(signature.inputs)
        arrays = {}
        for alias, info in signature.inputs.items():
            value = request.inputs[alias]
            arrays[alias] = tf.make_ndarray(value)
            assert value.dtype == info.dtype
            assert tf.TensorShape(info.tensor_shape).is_compatible_with(value.tensor_shape)
            assert len(arrays[alias]) == sizes[number % len(sizes)]
        outputs = call(request.model_spec.signature_name, arrays)
        assert all(len(value) == sizes[number % len(sizes)] for value in outputs.values())
        assert outputs.get("valid", np.True_).all()
    repeated = tf.make_ndarray(requests[sizes.index(8)].inputs["image_bytes"]).tolist()
    assert repeated == [tiny_photos[i] for i in (0, 1, 2, 0, 1, 2, 0, 1)]
    encoded = 2 * sum(sizes) * max(map(len, tiny_photos))
    assert (version / tf_serving.WARM_UP).stat().st_size < encoded + 5000  # gray images take no room


def test_warm_up_refuses_what_it_cannot_fill(version, tmp_path):
    import tensorflow as tf

    with pytest.raises(UsageError, match="Expected an image"):
        tf_serving.write_warm_up(version, "tiny", [])
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([None], tf.int32)])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.double})
    with pytest.raises(UsageError, match="neither"):
        tf_serving.write_warm_up(tmp_path / "1", "x", [b"image"])


def test_the_list_of_models(tmp_path):
    for version in ("cats/1", "cats/2", "Käfer/10", "empty", "notes/one"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "labels.txt").touch()
    path = models_config.write_models_config(tmp_path)
    assert path == tmp_path / "models.config"
    entries = read_models_config(path)
    assert [(e.name, e.base_path) for e in entries] == [("Käfer", "/models/Käfer"), ("cats", "/models/cats")]
    assert {e.model_platform for e in entries} == {"tensorflow"}
    assert all(e.model_version_policy.latest.num_versions == 1 for e in entries)
    (entry,) = read_models_config(
        models_config.write_models_config(tmp_path, ["cats"], base_path="/a b", versions=[2])
    )
    assert entry.base_path == "/a b/cats"
    assert list(entry.model_version_policy.specific.versions) == [2]
    assert not entry.model_version_policy.HasField("latest")
    assert tf_serving.find_versions(tmp_path / "cats") == [1, 2]
    assert tf_serving.find_versions(tmp_path / "notes") == []


def server_protos():
    """BatchingParameters and MonitoringConfig of TF Serving's session_bundle_config.proto and
    monitoring_config.proto, which its Python package leaves out: the fields that they have, by number."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    boolean, number, text = 8, 3, 9  # FieldDescriptorProto.Type
    file = descriptor_pb2.FileDescriptorProto(
        name="server.proto", package="tensorflow.serving", syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )  # fmt: skip

    def add(message, name, field, kind=None, label=1, type_name=None):
        message.field.add(name=name, number=field, type=kind or 11, label=label, type_name=type_name)

    batching = file.message_type.add(name="BatchingParameters")
    int64, string = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for field, name in enumerate(names, 1):
        add(batching, name, field, type_name=int64)
    add(batching, "thread_pool_name", 5, type_name=string)
    add(batching, "allowed_batch_sizes", 6, number, label=3)
    add(batching, "pad_variable_length_inputs", 7, boolean)
    prometheus = file.message_type.add(name="PrometheusConfig")
    add(prometheus, "enable", 1, boolean)
    add(prometheus, "path", 2, text)
    monitoring = file.message_type.add(name="MonitoringConfig")
    add(monitoring, "prometheus_config", 1, type_name=".tensorflow.serving.PrometheusConfig")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    find = pool.FindMessageTypeByName
    names = ("BatchingParameters", "MonitoringConfig")
    return [message_factory.GetMessageClass(find(f"tensorflow.serving.{name}")) for name in names]


def test_the_files_beside_the_list_of_models(tmp_path):
    from google.protobuf import text_format

    assert [p.name for p in tf_serving.write_server_files(tmp_path)] == [
        "batching.config",
        "monitoring.config",
    ]
    batching, monitoring = (
        text_format.Parse((tmp_path / name).read_text(), kind())
        for name, kind in zip(("batching.config", "monitoring.config"), server_protos(), strict=True)
    )
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) == list(tf_serving.ALLOWED_BATCH_SIZES)
    assert sizes[-1] == batching.max_batch_size.value and sizes[0] == 1  # as TF Serving demands
    assert batching.num_batch_threads.value > 0 and batching.max_enqueued_batches.value > 0
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    assert tf_serving.write_server_files(tmp_path) == []


def test_the_docker_line(tmp_path):
    command = tf_serving.docker_command(tmp_path, rest_port=9001, grpc_port=9000)
    expected = (
        "docker run --rm --init --publish 127.0.0.1:9001:8501 --publish 127.0.0.1:9000:8500 --mount "
        f"type=bind,source={tmp_path},target=/models,readonly tensorflow/serving:2.20.0 "
        "--model_config_file=/models/models.config --allow_version_labels_for_unavailable_models=true "
        "--enable_batching=true --batching_parameters_file=/models/batching.config "
        "--monitoring_config_file=/models/monitoring.config --model_config_file_poll_wait_seconds=60"
    )
    assert " ".join(command) == expected
    config = tmp_path / "elsewhere" / "models.config"
    odd = 'odd, "name"'
    command = tf_serving.docker_command(
        tmp_path, name=odd, config=config, container="c", host="::1", flags=["--more=1"]
    )
    mounts = [next(csv.reader([command[i + 1]])) for i, word in enumerate(command) if word == "--mount"]
    assert mounts[0] == [
        "type=bind", f'source={tmp_path}/odd, "name"', 'target=/models/odd, "name"', "readonly",
    ]  # fmt: skip
    assert mounts[1][1:3] == [f"source={config.parent}", "target=/config"]
    assert "--model_config_file=/config/models.config" in command and command[-1] == "--more=1"
    assert "--batching_parameters_file=/config/batching.config" in command
    assert "[::1]:8501:8501" in command and command[4:6] == ["--name", "c"]


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client to read the line")
def test_a_docker_client_understands_the_line(tmp_path):
    command = tf_serving.docker_command(tmp_path, name='odd, "name"', config=tmp_path / "x", host="::1")
    command[1:1] = ["--host", f"unix://{tmp_path}/nobody.sock"]
    done = subprocess.run(command, capture_output=True, text=True)
    # It got as far as asking the daemon, which is not there.
    assert "connect" in done.stderr and "invalid" not in done.stderr and "unknown" not in done.stderr


def load_client(name):
    spec = importlib.util.spec_from_file_location(name, CLIENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tiny_photos):
    return [tiny_photos[0], b"no image", tiny_photos[1], tiny_photos[2]]


@pytest.fixture(scope="module")
def expected(call, images):
    return call("serving_default", {"image_bytes": images})


def check_answers(answers, expected):
    assert [a["valid"] for a in answers] == [True, False, True, True]
    assert [a["labels"] for a in answers] == [[label.decode() for label in row] for row in expected["labels"]]
    assert [a["classes"] for a in answers] == expected["classes"].tolist()
    probabilities = [a["probabilities"] for a in answers]
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-6)
    assert answers[1]["labels"] == ["", "", ""] and set(answers[0]["classes"]) <= set(range(6))


@pytest.fixture(scope="module")
def grpc_server(call):
    """Address and received requests of a server with TF Serving's Predict."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    requests = []

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            requests.append(request)
            if request.model_spec.name == "large":  # more than gRPC takes by itself
                response = predict_pb2.PredictResponse(model_spec=request.model_spec)
                values = np.zeros((2, 800_000), np.float32)
                response.outputs["features"].CopyFrom(tf.make_tensor_proto(values))
                return response
            if request.model_spec.name != "tiny":
                context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
            inputs = {alias: tf.make_ndarray(value) for alias, value in request.inputs.items()}
            response = predict_pb2.PredictResponse(model_spec=request.model_spec)
            for name, value in call(request.model_spec.signature_name, inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", requests
    server.stop(None).wait()


def test_the_grpc_client(grpc_server, images, expected, call):
    import grpc
    import tensorflow as tf

    client, (address, requests) = load_client("grpc_client"), grpc_server
    check_answers(client.predict(address, images, "tiny"), expected)
    sent = requests[-1]
    assert (sent.model_spec.name, sent.model_spec.signature_name) == ("tiny", "serving_default")
    assert set(sent.inputs) == {"image_bytes"} and not sent.model_spec.HasField("version")
    tensor = sent.inputs["image_bytes"]
    assert tensor.dtype == tf.string.as_datatype_enum and [d.size for d in tensor.tensor_shape.dim] == [4]
    assert list(tensor.string_val) == images
    assert client.build_request(images, "tiny", version=7).model_spec.version.value == 7
    features = client.predict(address, images[:1], "tiny", "features")
    true = call("features", {"image_bytes": images[:1]})["features"]
    np.testing.assert_allclose([f["features"] for f in features], true, atol=1e-6)
    with pytest.raises(grpc.RpcError, match="Servable not found"):
        client.predict(address, images, "other")


def test_the_grpc_client_takes_large_answers_labels_and_no_proxy(grpc_server, images, monkeypatch, capsys):
    import grpc

    client, (address, requests) = load_client("grpc_client"), grpc_server
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody there
    answers = client.predict(address, images[:2], "large", "features", label="stable")
    assert [len(a["features"]) for a in answers] == [800_000] * 2
    assert requests[-1].model_spec.version_label == "stable"
    with pytest.raises(grpc.RpcError, match="larger than max"):
        client.predict(address, images[:2], "large", "features", max_message_mb=4)
    for arguments, words in (
        (["missing.jpg", "--model", "tiny"], "cannot read a file: .*No such file"),
        ([__file__, "--model", "tiny", "--server", "127.0.0.1:1"], "no server answers at 127.0.0.1:1."),
    ):
        monkeypatch.setattr(sys, "argv", ["grpc_client", *arguments])
        with pytest.raises(SystemExit, match=words):
            client.main()


def test_the_grpc_client_on_files(grpc_server, images, expected, tmp_path, monkeypatch, capsys):
    for number, image in enumerate(images[:2]):
        (tmp_path / f"{number}.jpg").write_bytes(image)
    client = load_client("grpc_client")
    files = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    monkeypatch.setattr(sys, "argv", ["grpc_client", *files, "--model", "tiny", "--server", grpc_server[0]])
    client.main()
    lines = capsys.readouterr().out.splitlines()
    best = f"{expected['labels'][0, 0].decode()} {100 * expected['probabilities'][0, 0]:.1f} %"
    assert lines[0].startswith(f"{files[0]}  {best}  ") and lines[1] == f"{files[1]}  not an image"
    monkeypatch.setattr(sys, "argv", ["grpc_client", *files, "--model", "no", "--server", grpc_server[0]])
    with pytest.raises(SystemExit, match="NOT_FOUND: Servable not found"):
        client.main()


@pytest.fixture(scope="module")
def rest_server(call):
    """URL and received requests of a server that follows TF Serving's description of its REST API.

    Bytes come as {"b64": ...}; row format; strings go out as they are, unless a name ends in _bytes.
    """
    requests = []

    def from_b64(value):
        return base64.b64decode(value["b64"], validate=True) if set(value) == {"b64"} else value

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, self.headers["Content-Type"], json.loads(body)))
            if self.path != "/v1/models/tiny:predict":
                return self.answer(404, {"error": "Servable not found for request"})
            unknown = set(requests[-1][2]) - {"signature_name", "instances"}
            if unknown:
                return self.answer(400, {"error": f"unknown keys {unknown}"})
            rows = requests[-1][2]["instances"]
            inputs = {name: [from_b64(row[name]) for row in rows] for name in rows[0]}
            outputs = call(requests[-1][2].get("signature_name", "serving_default"), inputs)
            columns = {name: np.char.decode(v.astype(bytes)) if v.dtype == object else v
                       for name, v in outputs.items()}  # fmt: skip
            rows = [{name: column[i].tolist() for name, column in columns.items()} for i in range(len(rows))]
            self.answer(200, {"predictions": rows})

        def answer(self, status, content):
            body = json.dumps(content, indent=4, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/models/tiny:predict", requests
        server.shutdown()


def test_the_rest_client(rest_server, images, expected, call):
    client, (url, requests) = load_client("rest_client"), rest_server
    check_answers(client.predict(url, images), expected)
    path, kind, sent = requests[-1]
    assert (path, kind) == ("/v1/models/tiny:predict", "application/json")
    assert sent["signature_name"] == "serving_default" and set(sent) == {"signature_name", "instances"}
    assert [base64.b64decode(i["image_bytes"]["b64"]) for i in sent["instances"]] == images
    assert all(set(i) == {"image_bytes"} and set(i["image_bytes"]) == {"b64"} for i in sent["instances"])
    features = client.predict(url, images[:1], "features")
    true = call("features", {"image_bytes": images[:1]})["features"]
    np.testing.assert_allclose([f["features"] for f in features], true, atol=1e-6)
    with pytest.raises(RuntimeError, match="404: Servable not found"):
        client.predict(url.replace("tiny", "other"), images)


def test_the_rest_client_needs_no_package(rest_server, images, expected, tmp_path):
    files = [tmp_path / f"{number}.jpg" for number in range(2)]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)

    def run(url):
        script = [sys.executable, "-I", "-S", CLIENTS / "rest_client.py", *files, "--url", url]
        return subprocess.run(script, capture_output=True, encoding="utf-8", env={"PYTHONUTF8": "1"})

    done = run(rest_server[0])
    best = f"{expected['labels'][0, 0].decode()} {100 * expected['probabilities'][0, 0]:.1f} %"
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{files[0]}  {best}  ") and lines[1] == f"{files[1]}  not an image"
    failed = run("http://127.0.0.1:1/v1/models/tiny:predict")
    assert failed.returncode == 1 and "refused" in failed.stderr and "Traceback" not in failed.stderr
