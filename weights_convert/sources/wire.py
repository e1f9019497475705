"""TensorFlow's shapes and types in protocol buffers."""

import numpy as np

from advface_jax.protobuf import Message, fields, message, packed, repeated, signed, text, varint

__all__ = ["Message", "fields", "message", "packed", "repeated", "signed", "text", "varint"]

_NAMES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
DTYPES = {number: np.dtype(name) for number, name in _NAMES.items()}
"""TensorFlow's ``DataType`` numbers."""


def shape(data: memoryview) -> tuple[int, ...]:
    """TensorShapeProto."""
    return tuple(signed(message(dim).number(1)) for dim in repeated(data, 2))
