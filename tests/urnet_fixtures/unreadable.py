"""A layer that Keras writes and cannot read again, like one of keras-hub's ViT."""

import keras


@keras.saving.register_keras_serializable()
class Unreadable(keras.layers.Layer):
    """Is written with a setting that it does not take."""

    def get_config(self):
        return {**super().get_config(), "num_patches": 4}

    def call(self, x):
        return x
