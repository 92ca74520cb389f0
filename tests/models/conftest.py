"""Fixture `torch_writer`: writes the file formats of PyTorch without PyTorch."""

import collections
import io
import pickle
import struct
import types
import zipfile

import pytest


class Global:
    """Pickles as a reference to module.name, called with arguments."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


class TorchPickler(pickle._Pickler):
    """Writes what PyTorch writes, with classes that are not importable here."""

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", Global("torch", value.kind), value.key, "cpu", value.count)
        return None

    def save(self, value, *args, **kwargs):
        if isinstance(value, Global):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
            if value.arguments:
                super().save(value.arguments)
                self.write(b"R")
            return
        super().save(value, *args, **kwargs)


def pickled(value):
    file = io.BytesIO()
    TorchPickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(key, offset, shape, strides, count, kind="FloatStorage"):
    return Global(
        "torch._utils",
        "_rebuild_tensor_v2",
        Storage(kind, key, count),
        offset,
        shape,
        strides,
        False,
        collections.OrderedDict(),
    )


def write_zip(path, state, storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state))
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def write_legacy(path, state, storages):
    parts = [pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({"little_endian": True})]
    parts += [pickled(state), pickled(list(storages))]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture(scope="session")
def torch_writer():
    """Has Global, tensor, write_zip and write_legacy."""
    return types.SimpleNamespace(Global=Global, tensor=tensor, write_zip=write_zip, write_legacy=write_legacy)
