"""Exports have the same operations wherever they are made, whatever that machine can compute itself."""

import collections
import json
import zipfile

import pytest

from urnet_tf.export.flatbuffer_model import unpack_model
from urnet_tf.models import grouped_convolution

pytestmark = pytest.mark.onednn


def saved_model_operations(path):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    functions = (node for function in graph.library.function for node in function.node_def)
    return [node.op for node in (*graph.node, *functions)]


def tflite_operations(path):
    model = unpack_model(path.read_bytes())
    codes = [(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return [codes[operator.opcodeIndex] for graph in model.subgraphs for operator in graph.operators]


def onnx_operations(path):
    import onnx

    return [node.op_type for node in onnx.load(path).graph.node]


def keras_configuration(path):
    def without_ids(part):
        return {key: value for key, value in part.items() if key != "shared_object_id"}

    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"), object_hook=without_ids)["config"]


@pytest.fixture
def export(tiny_names, tiny_preparation, make_tiny_model, tmp_path):
    """(format, a name) → the operations of a new file of a new model."""
    import keras

    from urnet_tf.export import onnx_file, saved_model, tflite

    def make(kind, name):
        keras.utils.clear_session()  # layers are numbered from 1 again
        model, path, size = make_tiny_model(), tmp_path / name, tiny_preparation.image_size_px
        if kind == "saved_model":
            saved_model.write_saved_model(model, tiny_names, path, tiny_preparation)
            return saved_model_operations(path)
        if kind == "tflite":
            tflite.write_tflite(model, path, image_size_px=size)
            return tflite_operations(path)
        if kind == "onnx":
            pytest.importorskip("tf2onnx")
            onnx_file.write_onnx(model, path, size, tiny_names, tiny_preparation)
            return onnx_operations(path)
        model.save(path.with_suffix(".keras"))
        return keras_configuration(path.with_suffix(".keras"))

    return make


@pytest.mark.parametrize("kind", ["saved_model", "tflite", "onnx", "keras"])
def test_the_machine_does_not_change_the_operations(kind, export, monkeypatch):
    found = []
    for can in (True, False):
        monkeypatch.setattr(grouped_convolution, "runs_natively", lambda dtype, can=can: can)
        operations = export(kind, f"{kind}_{can}")
        found.append(operations if kind == "keras" else collections.Counter(operations))
    assert found[0] == found[1]
