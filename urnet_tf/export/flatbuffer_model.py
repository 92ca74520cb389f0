"""A `.tflite` file as plain objects that can be read and changed, and back to bytes.

`ai_edge_litert` has the schema of the format; TensorFlow is not needed.
"""

from typing import Any

from urnet_tf.errors import UsageError

_IDENTIFIER = b"TFL3"  # at byte 4 of every file
_ALIGNMENT = 16  # of the weights, as the format wants them; Python's builder would align to their type


def unpack_model(content: bytes) -> Any:
    """The model of a file, as a `schema_py_generated.ModelT`; what is appended to the file is not in it.

    Raises:
      UsageError: the bytes are not a TFLite model.
    """
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != _IDENTIFIER:
        raise UsageError(f"Expected a TFLite model; received {len(content)} bytes of something else.")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def pack_model(model: Any) -> bytes:
    """The inverse of `unpack_model`."""
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        # The library's names.
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
            return super().StartVector(elemSize, numElems, max(alignment, _ALIGNMENT))

    builder = AlignedBuilder()
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())
