"""Which versions of a model a server answers with: what a path means, and `models.config` beside it says."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from urnet_tf.errors import UsageError
from urnet_tf.export import models_config, tf_serving
from urnet_tf.serving import model_files


@dataclasses.dataclass(frozen=True)
class PromotedModel:
    """Versions of a model, `<directory>/<name>/<version>`.

    Attributes:
      directory: that holds the model's.
      name: of the model.
      versions: that are served, ascending.
      paths: of the versions: directories of SavedModels, or files.
      follow: whether newer versions are wanted, too.
      labels: label → version.
    """

    directory: pathlib.Path
    name: str
    versions: tuple[int, ...]
    paths: Mapping[int, pathlib.Path]
    follow: bool
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> pathlib.Path:
        """Of the highest version that is served."""
        return self.paths[self.versions[-1]]


def find_served_model(
    path: str | os.PathLike, *, any_kind: bool = False, contents: bool = False
) -> PromotedModel:
    """Finds what a path means, as `model_files.find_model` reads paths.

    Args:
      any_kind: whether other files than SavedModels will do.
      contents: whether the bytes of all files are compared with what was exported, not their sizes alone.

    Raises:
      UsageError: there is none, it has no number, or it is not whole.
    """
    pinned = _find_pinned(pathlib.Path(path).resolve())
    found = model_files.find_model(path if pinned is None else pinned)
    version = found.path.resolve()
    if found.kind != "saved_model" and any_kind:
        model_files.check_whole(version.parent, [version.name], contents=contents)
        number = found.version or 1
        return PromotedModel(version.parent, found.name, (number,), {number: version}, False)
    if found.kind != "saved_model" or not version.name.isdecimal():
        raise UsageError(
            f"Expected a SavedModel in a numbered directory, NAME/1/saved_model.pb; received {found.path}."
        )
    directory, name, number = version.parent.parent, version.parent.name, int(version.name)
    follow = pathlib.Path(path).resolve() not in (version, version / "saved_model.pb")
    served = _find_listed(directory, name) if follow else None
    if follow and pinned is None:
        model_files.check_highest(directory / name)  # TF Serving would try it, and serve nothing
    numbers, labels = ([number], {}) if served is None else (served.versions, served.labels)
    paths = {n: directory / name / str(n) for n in numbers}
    for one in paths.values():
        model_files.check_whole(one, contents=contents)
    labels = {label: n for label, n in labels.items() if n in paths}
    several = served is not None and (served.pinned or len(numbers) > 1)
    return PromotedModel(directory, name, tuple(numbers), paths, follow and not several, labels)


def _find_pinned(directory: pathlib.Path) -> pathlib.Path | None:
    """The highest version that a list pins a model's directory to: others may be half copied."""
    if directory.name.isdecimal() or not tf_serving.find_versions(directory):
        return None
    served = _find_listed(directory.parent, directory.name)
    return directory / str(served.versions[-1]) if served is not None and served.pinned else None


def _find_listed(directory: pathlib.Path, name: str) -> models_config.Served | None:
    """What the list of models beside a model says of it."""
    path = directory / tf_serving.CONFIG
    there = tf_serving.find_versions(directory / name)
    served = models_config.find_served(models_config.read_text(path), name, there)
    if served is not None and there and not served.versions:
        raise UsageError(
            f"{path} pins {name} to versions that are not in {directory / name}; there are "
            f"{', '.join(map(str, there))}. Correct it, or give one: --model "
            f"{directory / name / str(there[-1])}"
        )
    return served
