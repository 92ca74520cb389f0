import collections
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from urnet_tf.checkpoints.reader import Format, file_format, read_checkpoint
from urnet_tf.errors import UsageError

DATA = np.arange(12, dtype="float32")


@pytest.mark.parametrize("form", ["write_zip", "write_legacy"])
def test_both_formats_with_views_wrappers_and_prefixes(form, torch_writer, tmp_path):
    write, tensor = getattr(torch_writer, form), torch_writer.tensor
    state = collections.OrderedDict()
    state["module.a"] = tensor("0", 0, (2, 3), (3, 1), 12)
    state["module.b"] = tensor("0", 6, (3, 2), (1, 3), 12)  # a transposed view of the same storage
    state["module.n"] = tensor("1", 0, (), (), 1, "LongStorage")
    path = write(tmp_path / "x.pth", {"epoch": 3, "state_dict": state}, {"0": DATA, "1": np.array([7])})
    tensors = read_checkpoint(path)
    np.testing.assert_array_equal(tensors["a"], DATA[:6].reshape(2, 3))
    np.testing.assert_array_equal(tensors["b"], DATA[6:].reshape(2, 3).T)
    assert tensors["n"] == 7


@pytest.mark.parametrize("form", ["write_zip", "write_legacy"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(form, torch_writer, tmp_path):
    write, Global = getattr(torch_writer, form), torch_writer.Global
    victim = tmp_path / "victim"
    path = write(tmp_path / "x.pth", {"a": Global("os", "system", f"touch {victim}")}, {})
    with pytest.raises(UsageError, match="os.system, which is refused.*torch.save.model.state_dict"):
        read_checkpoint(path)
    for module, name in (
        ("builtins", "eval"),
        ("torch", "load"),
        ("numpy", "load"),
        ("builtins", "getattr"),
        ("torch.nn.modules.conv", "Conv2d"),
    ):
        path = write(tmp_path / "y.pth", {"a": Global(module, name, "1")}, {})
        with pytest.raises(UsageError, match="refused"):
            read_checkpoint(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    "shape, strides, offset",
    [
        ((4, 4), (4, 1), 0),
        ((3,), (6,), 0),
        ((3,), (1,), 10),
        ((3,), (-1,), 5),
        ((10**9,), (0,), 0),
        ((2, 3), (1,), 0),
    ],
)
def test_views_outside_of_the_storage_are_refused(shape, strides, offset, torch_writer, tmp_path):
    tensor, write_zip = torch_writer.tensor, torch_writer.write_zip
    path = write_zip(tmp_path / "x.pth", {"a": tensor("0", offset, shape, strides, 12)}, {"0": DATA})
    with pytest.raises(UsageError, match="not a readable"):
        read_checkpoint(path)


def test_damaged_files_say_so_in_one_sentence(torch_writer, tmp_path):
    tensor, write_zip, write_legacy = torch_writer.tensor, torch_writer.write_zip, torch_writer.write_legacy
    good = write_legacy(
        tmp_path / "good.pth", {"a": tensor("0", 0, (12,), (1,), 12)}, {"0": DATA}
    ).read_bytes()
    archive = write_zip(
        tmp_path / "good.zip", {"a": tensor("0", 0, (12,), (1,), 12)}, {"0": DATA}
    ).read_bytes()
    cases = [
        b"",
        b"hello",
        good[:-5],
        good[:40],
        archive[:100],
        archive.replace(b"data/0", b"data/9"),
        os.urandom(300),
    ]
    for content in cases:
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UsageError, match="bad.pth is not a readable PyTorch state dictionary") as error:
            read_checkpoint(tmp_path / "bad.pth")
        assert "\n" not in str(error.value)
    write_zip(tmp_path / "short.pth", {"a": tensor("0", 0, (12,), (1,), 12)}, {"0": DATA[:5]})
    with pytest.raises(UsageError, match="another size"):
        read_checkpoint(tmp_path / "short.pth")
    with pytest.raises(UsageError, match="Cannot read"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(UsageError, match="holds no tensors"):
        read_checkpoint(write_zip(tmp_path / "empty.pth", {"epoch": 1}, {}))


def safetensors_file(header, data=b"", announced=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if announced is None else announced) + header + data


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_safetensors_of_every_type(tmp_path):
    # 1.0, -2.0 and 2^-133 (subnormal) as bfloat16: the upper halves of their float32.
    data = struct.pack("<3H", 0x3F80, 0xC000, 0x0001) + np.float16([0.5, 65504]).tobytes()
    data += struct.pack("<q", -7) + DATA[:6].tobytes()
    header = {
        "module.bf": entry("BF16", [3], 0, 6),
        "module.half": entry("F16", [2], 6, 10),
        "module.n": entry("I64", [], 10, 18),
        "module.f": entry("F32", [2, 3], 18, 42),
        "__metadata__": {"format": "pt"},
    }
    (tmp_path / "x.bin").write_bytes(safetensors_file(header, data))
    tensors = read_checkpoint(tmp_path / "x.bin")
    assert tensors["bf"].dtype == np.float32
    np.testing.assert_array_equal(tensors["bf"], np.float32([1.0, -2.0, 2.0**-133]))
    np.testing.assert_array_equal(tensors["half"], np.float16([0.5, 65504]))
    np.testing.assert_array_equal(tensors["f"], DATA[:6].reshape(2, 3))
    assert tensors["n"] == -7 and tensors["n"].shape == ()


@pytest.mark.parametrize(
    "content",
    [
        safetensors_file({"a": entry("F32", [4], 0, 16)}, b"12345678"),  # truncated
        safetensors_file({"a": entry("F32", [4], 0, 16)}, bytes(16))[:30],
        safetensors_file({"a": entry("F32", [10**12], 0, 4 * 10**12)}, bytes(16)),
        safetensors_file({"a": entry("F32", [2**62, 4], 0, 16)}, bytes(16)),
        safetensors_file({"a": entry("F32", [4], 0, 16)}, bytes(16), announced=2**39),
        safetensors_file({"a": entry("F32", [4], 0, 8)}, bytes(16)),  # shape and bytes differ
        safetensors_file({"a": entry("F32", [4], -16, 0)}, bytes(16)),
        safetensors_file({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 0, 16)}, bytes(16)),
        safetensors_file({"a": entry("F8_E4M3", [4], 0, 4)}, bytes(4)),
        safetensors_file({"a": entry("no type", [4], 0, 4)}, bytes(4)),
        safetensors_file(b"{broken", bytes(4)),
        safetensors_file(b"{" * 100_000, bytes(4)),
    ],
)
def test_hostile_safetensors(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match="x.safetensors is not a readable safetensors file") as error:
        read_checkpoint(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_the_bytes_tell_the_format_not_the_name(torch_writer, tmp_path):
    path = tmp_path / "x.pth"
    safetensors.numpy.save_file({"a": DATA}, path)
    assert file_format(path) is Format.SAFETENSORS
    np.testing.assert_array_equal(read_checkpoint(path)["a"], DATA)
    state = {"a": torch_writer.tensor("0", 0, (12,), (1,), 12)}
    torch_writer.write_zip(path, state, {"0": DATA})
    assert file_format(path) is Format.TORCH_ZIP
    torch_writer.write_legacy(path, state, {"0": DATA})
    assert file_format(path) is Format.TORCH_LEGACY
    for content in (b"", b"P", b"GIF89a" * 9, bytes(64), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        assert file_format(path) is None


@pytest.mark.parametrize("form", ["write_zip", "write_legacy"])
def test_what_training_scripts_store_beside_the_weights_is_ignored(form, torch_writer, tmp_path):
    write, tensor, Global = getattr(torch_writer, form), torch_writer.tensor, torch_writer.Global
    checkpoint = {
        "args": Global("argparse", "Namespace"),
        "sampler": Global("collections", "Counter", {"a": 2}),
        "best": Global("numpy._core.multiarray", "scalar", Global("numpy", "dtype", "f8"), b"12345678"),
        "optimizer": {"state": {0: {"momentum": tensor("9", 0, (12,), (1,), 12)}}},
        "state_dict": {"a": tensor("0", 0, (12,), (1,), 12)},
        "state_dict_ema": {"module.a": tensor("1", 0, (12,), (1,), 12), "n_averaged": 3},
    }
    path = write(tmp_path / "x.pth", checkpoint, {"0": DATA, "9": DATA, "1": DATA + 1})
    tensors = read_checkpoint(path)
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"], DATA + 1)  # the averaged weights


@pytest.mark.parametrize("form", ["write_zip", "write_legacy"])
def test_a_small_file_stays_small_in_memory(form, torch_writer, tmp_path):
    write, tensor = getattr(torch_writer, form), torch_writer.tensor
    state = {"a": tensor("0", 0, (10**13,), (1,), 10**13)}
    with pytest.raises(UsageError, match="announces more numbers than it holds"):
        read_checkpoint(write(tmp_path / "x.pth", state, {"0": DATA}))
    many = {str(i): tensor(str(i), 0, (12,), (1,), 12) for i in range(50)}  # each alone would fit
    path = write(tmp_path / "x.pth", many, {"0": DATA})
    with pytest.raises(UsageError, match="not a readable"):
        read_checkpoint(path)
    tall = {f"{i}": tensor("0", 0, (12,), (1,), 12) for i in range(1000)}  # views of one storage
    tensors = read_checkpoint(write(tmp_path / "x.pth", tall, {"0": DATA}))
    assert len({array.__array_interface__["data"][0] for array in tensors.values()}) == 1


def test_a_zip_bomb_is_refused(torch_writer, tmp_path):
    state = {"a": torch_writer.tensor("0", 0, (5 * 10**6,), (1,), 5 * 10**6)}
    stored = torch_writer.write_zip(tmp_path / "x.pth", state, {})
    with zipfile.ZipFile(stored) as archive:
        index = archive.read("archive/data.pkl")
    for members in ({"data.pkl": index, "data/0": bytes(20 * 10**6)}, {"data.pkl": bytes(20 * 10**6)}):
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(f"archive/{name}", content)
        with pytest.raises(UsageError, match="compressed, which PyTorch never does"):
            read_checkpoint(tmp_path / "bomb.pth")


def test_hostile_pickles(torch_writer, tmp_path):
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    start = magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    cycle = b"\x80\x02}q\x00U\x05modelh\x00s."  # d = {}; d["model"] = d
    for state, reason in (
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "no dictionary"),  # memo number 2^31
        (b"\x80\x02B\xff\xff\xff\x7f.", "not a readable"),  # two GB of bytes in no bytes
        (b"\x80\x02" + b"(" * 100_000 + b".", "not a readable"),
        (b"\x80\x02\x82\x01.", "not a readable"),  # an extension code
        (pickle.dumps([1, 2], 2), "no dictionary"),
        (cycle, "no tensors"),
    ):
        (tmp_path / "x.pth").write_bytes(start + state + pickle.dumps([], 2))
        with pytest.raises(UsageError, match=reason):
            read_checkpoint(tmp_path / "x.pth")


def test_a_keras_file_may_not_announce_what_it_does_not_hold(tmp_path):
    import h5py

    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv1"
        group.create_dataset("0", (10**6, 10**6), "f4")  # takes no room until it is written
    with pytest.raises(
        UsageError, match="not a readable file of Keras weights: .* more numbers than it holds"
    ):
        read_checkpoint(tmp_path / "x.weights.h5")


def test_a_keras_model_in_a_zip_gets_its_own_hint(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(UsageError, match="Keras model: give the file of save_weights"):
        read_checkpoint(tmp_path / "x.keras")


WRITE_WITH_TORCH = """
import argparse, collections, sys, numpy as np, torch
folder = sys.argv[1]
base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
state = collections.OrderedDict(
    plain=base, turned=base.t(), row=base[2], step=base[:, ::2], parameter=torch.nn.Parameter(base + 1),
    half=base.half(), bfloat=base.bfloat16(), double=base.double(), count=torch.tensor(3), empty=base[:0],
    flags=base > 1, spread=torch.ones(1).expand(1, 1),
)
np.savez(folder + "/expected.npz", **{k: v.detach().float().numpy() for k, v in state.items()})
module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
optimizer = torch.optim.AdamW(module.parameters())
module(base).sum().backward()
optimizer.step()
averaged = torch.optim.swa_utils.AveragedModel(torch.nn.ParameterDict({"w": base + 5}))
files = {
    "bare": state,
    "parallel": {"module." + k: v for k, v in state.items()},
    "training": {
        "model": state, "optimizer": optimizer.state_dict(), "epoch": 3,
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), size=base.shape, dtype=torch.float16),
        "best": np.float64(0.5),
    },
    "averaged": {"model": {"w": base}, "model_ema": averaged.state_dict()},
    "module": torch.nn.Linear(2, 2),
}
for name, content in files.items():
    torch.save(content, f"{folder}/{name}-zip.pt")
    torch.save(content, f"{folder}/{name}-legacy.pt", _use_new_zipfile_serialization=False)
torch.save(state, folder + "/protocol4-zip.pt", pickle_protocol=4)
"""


@pytest.mark.torch
def test_files_that_pytorch_writes(torch_python, tmp_path):
    torch_python("-c", WRITE_WITH_TORCH, tmp_path)
    expected = np.load(tmp_path / "expected.npz")
    for name in ("bare", "parallel", "training"):
        for form in ("zip", "legacy"):
            tensors = read_checkpoint(tmp_path / f"{name}-{form}.pt")
            assert list(tensors) == list(expected)
            for key, array in tensors.items():
                np.testing.assert_array_equal(array.astype("float32"), expected[key], err_msg=f"{name} {key}")
    assert tensors["half"].dtype == np.float16 and tensors["double"].dtype == np.float64
    np.testing.assert_array_equal(
        read_checkpoint(tmp_path / "protocol4-zip.pt")["turned"], expected["turned"]
    )
    for form in ("zip", "legacy"):
        averaged = read_checkpoint(tmp_path / f"averaged-{form}.pt")
        assert list(averaged) == ["w"]
        np.testing.assert_array_equal(averaged["w"], expected["plain"] + 5)
        with pytest.raises(UsageError, match="torch.nn.modules.linear.Linear, which is refused"):
            read_checkpoint(tmp_path / f"module-{form}.pt")
