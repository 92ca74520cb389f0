"""Packages that only some features need, and the one sentence for those who lack them.

The extras are those of pyproject.toml: `pip install 'urnet_tf[onnx]'`.
"""

import importlib.util

from urnet_tf.errors import UsageError


def find_missing(*modules: str) -> str | None:
    """The first of some top-level modules that is not installed; imports none of them."""
    return next((name for name in modules if importlib.util.find_spec(name) is None), None)


def require(extra: str, *modules: str, purpose: str, otherwise: str) -> None:
    """Checks that the modules of a feature are installed, without importing them.

    Args:
      extra: of this package, which brings them.
      modules: top-level names.
      purpose: what needs them, as the subject of a sentence: "The policy augmix".
      otherwise: what to do without them: "choose the policy crop_flip".

    Raises:
      UsageError: one is missing.
    """
    if name := find_missing(*modules):
        raise UsageError(
            f"{purpose} needs the Python package {name}, which is not installed: "
            f"pip install 'urnet_tf[{extra}]', or {otherwise}."
        )
