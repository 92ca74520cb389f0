"""When TFLite takes the place of Keras, told without importing either."""

TFLITE_FROM_IMAGES = 3_000  # converting takes seconds, which fewer images do not win back


def are_many(images: int) -> bool:
    """Whether so many images pay for the conversion of a network that TFLite suits."""
    return images >= TFLITE_FROM_IMAGES
