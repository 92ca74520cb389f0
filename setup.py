"""Lays experiments/configs into the package as urnet_tf/configs, where `--config NAME` finds them.

All else is in pyproject.toml, which cannot say this together with a search for packages.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["urnet_tf*"]), "urnet_tf.configs"],
    package_dir={"urnet_tf.configs": "experiments/configs"},
)
