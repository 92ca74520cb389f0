"""urnet_tf: train image classifiers from noisy web images, and see why each image counted.

Importing this package imports nothing heavy; see `urnet_tf.__main__` for the command line and
the sub-packages `data`, `reweighting`, `models` for the parts that can be used on their own. It
switches oneDNN on for a TensorFlow that is loaded afterwards, see `urnet_tf.onednn`.
"""

from urnet_tf.onednn import switch_on_onednn

__version__ = "0.1.0"

switch_on_onednn()
