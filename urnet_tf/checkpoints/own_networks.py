"""Which networks of Keras a name means, and whether they are at hand; builds none.

Plans are drawn with it, so that a missing file is reported before the work.
"""

import os
import pathlib
import zipfile

from urnet_tf import extras
from urnet_tf.backbone_names import APPLICATIONS, KERAS_HUB, application_of, preset_of
from urnet_tf.checkpoints import efficientnet_v2_names
from urnet_tf.checkpoints.convnext_names import LIBRARIES, SIZES
from urnet_tf.checkpoints.pretrained import IMAGENET
from urnet_tf.checkpoints.reader import Format, file_format
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import show_path


def find_network(name: str) -> pathlib.Path | None:
    """The file or folder of a network; None for a preset that keras-hub finds by its name.

    Raises:
      UsageError: there is no such file, it is none of Keras', or keras-hub is not installed.
    """
    if name.startswith(KERAS_HUB):
        extras.require(
            "hub",
            "keras_hub",
            purpose=f"The backbone {name}",
            otherwise="take a .keras file or another backbone",
        )
        path = pathlib.Path(preset_of(name))
        return path if path.is_dir() else None
    path = pathlib.Path(name)
    if not path.is_file():
        raise UsageError(f"Cannot read the network {show_path(path)} (`name`): no such file.")
    if not zipfile.is_zipfile(path):
        raise UsageError(
            'Expected a network as model.save("NAME.keras") of Keras 3 writes it as `name`; '
            f"{show_path(path)} is none."
        )
    return path


def find_application(name: str, weights: str | os.PathLike | None) -> pathlib.Path | None:
    """The file of the weights of a network of `keras.applications`; None for ImageNet's and random ones.

    Raises:
      UsageError: there is no such network or file.
    """
    if application_of(name) not in APPLICATIONS:
        raise UsageError(
            f"Expected keras_applications: and one of {', '.join(APPLICATIONS)} as `name`; received {name!r}."
        )
    if weights is None or weights == IMAGENET:
        return None
    path, network = pathlib.Path(weights), application_of(name)
    sources = dict.fromkeys(SIZES, LIBRARIES)
    sources |= {known: f"timm's {file}" for known, file in efficientnet_v2_names.NETWORKS.items()}
    of_pytorch = _is_of_pytorch(path)
    if path.is_file() and (path.suffix == ".h5" or (of_pytorch and network in sources)):
        return path
    received = "another file" if path.exists() else "not there"
    others = ""
    if network in sources:
        others = f", or a checkpoint of {sources[network]} (.safetensors, .pth),"
    elif of_pytorch:
        received = f"a checkpoint of PyTorch, which only {', '.join(sources)} can take"
    raise UsageError(
        f"Expected {IMAGENET!r}, null or a file of Keras weights (.h5){others} of {name} as `weights`; "
        f"received {show_path(str(path))}, which is {received}."
    )


def _is_of_pytorch(path: pathlib.Path) -> bool:
    try:
        kind = file_format(path) if path.is_file() else None
    except OSError as error:
        raise UsageError(f"Cannot read the weights {show_path(path)}: {error.strerror}.") from None
    return kind is not None and kind is not Format.KERAS


def files_of(name: str, weights: str | os.PathLike | None = None) -> list[pathlib.Path]:
    """The files that decide a network, for a fingerprint; none for a preset by its name.

    Raises:
      UsageError: see `find_network` and `find_application`.
    """
    path = find_application(name, weights) if application_of(name) else find_network(name)
    if path is None:
        return []
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if os.path.isfile(p))
