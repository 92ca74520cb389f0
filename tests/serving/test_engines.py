"""The SavedModel in engines that are not ours: saved_model_cli and TensorFlow's C API."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from urnet_tf.export.saved_model import open_saved_model
from urnet_tf.export.tf_serving import read_signatures

# What a server knows: the directory. No urnet_tf, no keras. It has no oneDNN either: TensorFlow then
# fuses convolutions with what follows, into an operation that takes no groups.
# One process, since importing TensorFlow is most of the time; each line of the input is a command.
_CLI = """
import os, shlex, sys
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
sys.modules["keras"] = sys.modules["urnet_tf"] = None  # importing them fails
from tensorflow.python.tools.saved_model_cli import main
for line in sys.stdin:
    sys.argv = ["saved_model_cli", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
"""


@pytest.fixture(scope="module")
def images(tiny_photos):
    return [*tiny_photos[:2], tiny_photos[2][:300], *tiny_photos[3:5], b"no image", b""]


@pytest.fixture(scope="module")
def expected(tiny_version, images):
    outputs = open_saved_model(tiny_version)("serving_default", {"image_bytes": images})
    assert outputs["valid"].tolist() == [True, True, False, True, True, False, False]
    best = outputs["probabilities"][outputs["valid"], 0]
    assert np.diff(np.sort(best)).min() > 1e-4  # or a mixed-up answer could pass for the right one
    return outputs


@pytest.fixture(scope="module", autouse=True)
def unchanged(tiny_version):
    """No engine may write into an export."""
    before = hash_of(tiny_version)
    yield
    assert hash_of(tiny_version) == before


def hash_of(directory):
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return [(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


@pytest.mark.slow
def test_saved_model_cli_without_our_package_keras_and_onednn(
    tiny_version, images, expected, tiny_preparation, tmp_path
):
    encoded = np.array(images, dtype=object)
    np.save(tmp_path / "image_bytes.npy", encoded)
    np.save(tmp_path / "images.npy", tiny_preparation.decode(encoded)[0].numpy())
    commands = [f"show --dir '{tiny_version}' --all"]
    for signature, alias in (("serving_default", "image_bytes"), ("tensor", "images")):
        commands.append(
            f"run --dir '{tiny_version}' --tag_set serve --signature_def {signature} "
            f"--inputs '{alias}={tmp_path}/{alias}.npy' --outdir '{tmp_path}/{signature}'"
        )
    process = [sys.executable, "-c", _CLI]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "KERAS_BACKEND")}
    settings = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    done = subprocess.run(process, input="\n".join(commands), **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in ("signature_def['serving_default']", "signature_def['tensor']", "inputs['image_bytes']"):
        assert word in done.stdout
    outputs = {f.stem: np.load(f, allow_pickle=True) for f in (tmp_path / "serving_default").iterdir()}
    check(outputs, expected)
    rows = expected["valid"]  # the tensor signature takes the black image of a bad file for an image
    outputs = {f.stem: np.load(f, allow_pickle=True)[rows] for f in (tmp_path / "tensor").iterdir()}
    check(outputs, {name: values[rows] for name, values in expected.items() if name != "valid"})


def check(outputs, expected):
    """Same answers; `outputs` maps names to arrays or lists."""
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        if name == "probabilities":
            np.testing.assert_allclose(outputs[name], values, atol=1e-5)
        else:
            np.testing.assert_array_equal(outputs[name], values, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) on the PATH")
def test_a_c_program(tiny_version, images, expected, tmp_path):
    import tensorflow as tf

    library = pathlib.Path(tf.__file__).parent
    program = tmp_path / "serve"
    build = [
        "cc",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        pathlib.Path(__file__).with_name("serve.c"),
        "-o",
        program,
    ]
    build += [f"-I{library}/include", f"-L{library}", f"-Wl,-rpath,{library}"]
    build += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    subprocess.run(build, check=True)
    signature = read_signatures(tiny_version)["serving_default"]
    names = [signature.inputs["image_bytes"].name]
    names += [signature.outputs[name].name for name in ("classes", "labels", "probabilities", "valid")]
    files = [tmp_path / f"{number}.jpg" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    done = subprocess.run([program, tiny_version, *names, *files], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [file.name for file in files]
    outputs = {
        "valid": [row[1] == "1" for row in rows],
        "classes": [[int(c) for c in row[2::3]] for row in rows],
        "labels": [[label.encode() for label in row[3::3]] for row in rows],
        "probabilities": [[float(p) for p in row[4::3]] for row in rows],
    }
    check(outputs, {name: values for name, values in expected.items() if name != "ids"})  # it asks for these
