"""Modules of tests that lie beside them, and are no part of a package."""

import importlib.util
import pathlib
import types


def load_module(path: pathlib.Path) -> types.ModuleType:
    """The module in a file, by the file's name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
