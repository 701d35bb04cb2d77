"""Read layers and weights from a Caffe model file, without Caffe: the few protocol-buffer messages that hold them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.files import only_file

# Wire types of protocol buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Field numbers of caffe.proto.
NET_LAYER, NET_LAYER_V1 = 100, 2
LAYER = {"name": 1, "type": 2, "blobs": 7, "convolution": 106, "batch_norm": 139}
LAYER_V1 = {"name": 4, "blobs": 6}
BLOB_LEGACY_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES, SHAPE_DIM = (1, 2, 3, 4), 5, 7, 8, 1
CONV = {"pad": 3, "kernel": 4, "stride": 6, "dilation": 18}
CONV_DEFAULTS = {"pad": 0, "stride": 1, "dilation": 1}
BN_FRACTION, BN_EPS = 2, 3
BN_FRACTION_DEFAULT, BN_EPS_DEFAULT = 0.999, 1e-5

Field = tuple[int, int, Any]


@dataclass
class CaffeLayer:
    """A layer: its name, type ("" in files of the first format), weights, and the settings that were found."""

    name: str
    kind: str = ""
    blobs: list[NDArray[np.float32]] = field(default_factory=list)
    convolution: dict[str, int] = field(default_factory=dict)
    bn_eps: float = BN_EPS_DEFAULT
    bn_fraction: float = BN_FRACTION_DEFAULT


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """Return the layers of a .caffemodel file, in its order. Raises UserError when it cannot be read or holds no layers."""
    try:
        content = memoryview(only_file(path).read_bytes())
        layers = [
            _layer(value, number == NET_LAYER)
            for number, kind, value in _fields(content)
            if kind == BYTES and number in (NET_LAYER, NET_LAYER_V1)
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give an existing .caffemodel file") from error
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is damaged or no Caffe model ({error}); download it again") from error
    if not any(layer.blobs for layer in layers):
        raise UserError(f"{path} holds no layers with weights; expected a .caffemodel file (not a .prototxt)")
    return layers


def _layer(content: memoryview, current: bool) -> CaffeLayer:
    numbers = LAYER if current else LAYER_V1
    layer = CaffeLayer("")
    for number, kind, value in _fields(content):
        if number in numbers.values() and kind != BYTES:
            raise ValueError(f"field {number} has the wire type {kind}")
        if number == numbers["name"]:
            layer.name = bytes(value).decode("utf-8")
        elif number == numbers["blobs"]:
            layer.blobs.append(_blob(value))
        elif current and number == numbers["type"]:
            layer.kind = bytes(value).decode("utf-8")
        elif current and number == numbers["convolution"]:
            layer.convolution = _convolution(value)
        elif current and number == numbers["batch_norm"]:
            for inner, _, item in _fields(value):
                if inner == BN_EPS:
                    layer.bn_eps = float(item)
                elif inner == BN_FRACTION:
                    layer.bn_fraction = float(item)
    return layer


def _convolution(content: memoryview) -> dict[str, int]:
    found = dict(CONV_DEFAULTS)
    names = {number: name for name, number in CONV.items()}
    for number, kind, value in _fields(content):
        if number in names:
            values = _varints(value) if kind == BYTES else [int(value)]
            if len(set(values)) > 1:
                raise ValueError(f"{names[number]} differs between height and width")
            found[names[number]] = values[0]
    return found


def _blob(content: memoryview) -> NDArray[np.float32]:
    data: list[NDArray[np.float32]] = []
    legacy, shape = [1, 1, 1, 1], None
    for number, kind, value in _fields(content):
        if number in BLOB_LEGACY_SHAPE and kind == VARINT:
            legacy[BLOB_LEGACY_SHAPE.index(number)] = value
        elif number == BLOB_SHAPE:
            dims = [_varints(v) if k == BYTES else [v] for n, k, v in _fields(value) if n == SHAPE_DIM]
            shape = [d for part in dims for d in part]
        elif number == BLOB_DATA:
            data.append(np.frombuffer(value, "<f4") if kind == BYTES else np.array([value], np.float32))
        elif number == BLOB_DOUBLES and kind == BYTES:
            data.append(np.frombuffer(value, "<f8").astype(np.float32))
    values = np.concatenate(data) if data else np.empty(0, np.float32)
    return values.reshape(legacy if shape is None else shape)


def _fields(content: memoryview) -> Iterator[Field]:
    """Yield (field number, wire type, value) of a message; values are integers, floats or byte ranges."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, position = _varint(content, position)
            yield number, kind, value
        elif kind == BYTES:
            length, position = _varint(content, position)
            if position + length > len(content):
                raise ValueError("a field reaches beyond the end of the file")
            yield number, kind, content[position : position + length]
            position += length
        elif kind in (FIXED32, FIXED64):
            form, size = ("<f", 4) if kind == FIXED32 else ("<d", 8)
            yield number, kind, struct.unpack_from(form, content, position)[0]
            position += size
        else:
            raise ValueError(f"wire type {kind}")


def _varints(content: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = _varint(content, position)
        values.append(value)
    return values


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
