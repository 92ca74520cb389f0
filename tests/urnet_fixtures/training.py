"""What tests of fitting share."""

import keras


class StopAt(keras.callbacks.Callback):
    """Interrupts a fit after so many steps, as Ctrl-C does."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
