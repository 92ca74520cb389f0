"""urnet_tf: train image classifiers from noisy web images, and see why each image counted.

Importing this package imports nothing heavy; see `urnet_tf.__main__` for the command line and
the sub-packages `data`, `reweighting`, `models` for the parts that can be used on their own.
"""

__version__ = "0.1.0"
