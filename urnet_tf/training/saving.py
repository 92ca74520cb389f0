"""Models as `.keras` files: equal models give equal bytes.

Heads on features hold layers of Keras alone, so that `keras.saving.load_model` reads them without this
package. Networks may hold layers of this one, which `load_model` makes known to Keras.
"""

import json
import os
import pathlib
import re
import tempfile
import zipfile

import keras

from urnet_tf import store
from urnet_tf.models import (  # noqa: F401  Keras knows them now
    batch_normalization,
    grouped_convolution,
    image_preparation,
    urnet,
)
from urnet_tf.training.machines import Machines


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file, uncompiled: of this package, or of Keras' own layers.

    Example:
      >>> import pathlib, tempfile, urnet_tf
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "head.keras"
      >>> urnet_tf.build_classifier(4, 3).save(path)
      >>> urnet_tf.load_model(path).output_shape
      (None, 3)

    Raises:
      ValueError: there is no such file, or it is none of Keras' files.
    """
    return keras.saving.load_model(path, compile=False)


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a functional model as `.keras`, atomically, without optimizer; equal models give equal bytes.

    Keras' own files hold the date of writing and addresses of objects.
    """
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    with tempfile.TemporaryDirectory(".tmp", ".", pathlib.Path(path).parent) as directory:
        dated = pathlib.Path(directory, "model.keras")
        uncompiled.save(dated)
        with (
            store.atomic_path(path) as temporary,
            zipfile.ZipFile(dated) as source,
            zipfile.ZipFile(temporary, "w") as target,
        ):
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps({**json.loads(content), "date_saved": ""}).encode()
                elif name == "config.json":
                    content = _number_shared_objects(content.decode()).encode()
                target.writestr(zipfile.ZipInfo(name), content)  # dated 1980


def save_together(model: keras.Model, path: str | os.PathLike, machines: Machines) -> None:
    """`save_model` by the chief of several machines; the others read the weights with it."""
    if machines.is_chief:
        save_model(model, path)
        return
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, pathlib.Path(directory, "model.keras"))


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}
    return re.sub(
        r'("shared_object_id": )(\d+)',
        lambda m: m[1] + str(numbers.setdefault(m[2], len(numbers) + 1)),
        config,
    )
