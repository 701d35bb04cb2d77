"""Reader of MXNet's NDArray-list container (`.params`), without MXNet."""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import only_file

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE_STORAGE = 0
# MXNet's type codes.
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64}


class _Reader:
    """Little-endian values from a byte string; running over its end is an error."""

    def __init__(self, content: bytes, path: Path) -> None:
        self.content, self.path, self.place = content, path, 0

    def take(self, count: int) -> bytes:
        part = self.content[self.place : self.place + count]
        if len(part) != count:
            raise UserError(f"weight file {self.path} ends too early; download it again")
        self.place += count
        return part

    def numbers(self, kind: str, count: int = 1) -> tuple[int, ...]:
        """Return `count` integers of struct code `kind`."""
        return struct.unpack(f"<{count}{kind}", self.take(count * struct.calcsize(kind)))


def read_params(path: Path) -> dict[str, Tensor]:
    """Read every dense array of a `.params` file.

    Returns:
        name as stored (with `arg:` or `aux:`) -> tensor.

    Raises:
        UserError: for a truncated or damaged file, another format or sparse arrays.
    """
    try:
        return _read_list(_Reader(only_file(path).read_bytes(), path))
    except (ValueError, OverflowError, struct.error) as error:  # sizes and names as no writer makes them
        raise UserError(f"weight file {path} is damaged ({error}); download it again") from error


def _read_list(reader: _Reader) -> dict[str, Tensor]:
    path = reader.path
    magic, _, count = reader.numbers("Q", 3)
    if magic != LIST_MAGIC:
        raise UserError(f"weight file {path} is no MXNet .params file (it starts with {magic:#x}); check the download")
    arrays = [_read_array(reader) for _ in range(count)]
    (names,) = reader.numbers("Q")
    if names != count:
        raise UserError(f"weight file {path} holds {count} arrays and {names} names; download it again")
    return {reader.take(reader.numbers("Q")[0]).decode(): array for array in arrays}


def _read_array(reader: _Reader) -> Tensor:
    (magic,) = reader.numbers("I")
    if magic in (V2_MAGIC, V3_MAGIC):
        (storage,) = reader.numbers("i")
        if storage != DENSE_STORAGE:
            raise UserError(f"weight file {reader.path} holds sparse arrays; only dense ones can be read")
        shape = reader.numbers("q", reader.numbers("i")[0])
    elif magic == V1_MAGIC:
        shape = reader.numbers("q", reader.numbers("I")[0])
    else:
        # The oldest layout has no magic number: the word is the number of dimensions.
        shape = reader.numbers("I", magic)
    reader.take(8)  # device type and id
    (code,) = reader.numbers("i")
    if code not in DTYPES:
        raise UserError(f"weight file {reader.path} has an array of unknown type {code}; download it again")
    dtype = np.dtype(DTYPES[code])
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the shape {shape}")
    data = reader.take(math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).copy())
