import collections
import os

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.models.checkpoint_reader import read_checkpoint

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
    with pytest.raises(UsageError, match="os.system, which is refused"):
        read_checkpoint(path)
    for module, name in (
        ("builtins", "eval"),
        ("torch", "load"),
        ("numpy", "load"),
        ("collections", "Counter"),
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
