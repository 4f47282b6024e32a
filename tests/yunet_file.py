"""A real ONNX network in YuNet's form for tests: it takes bright squares on a dark ground for faces.

No trained YuNet file comes with a package, so its place is taken by a network with the same input, the same twelve
outputs and the same meaning of them, that OpenCV reads and runs as it would the trained one. At each place and scale it
compares the mean of a square with the mean of what lies around it. ONNX files are protocol buffers; the few messages
that such a network needs are written here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STRIDES: Final = (8, 16, 32)
# A square of this many strides is what the outputs of a stride look for.
SQUARE_STRIDES: Final = 4
# As films have them. A white square on black is brighter than the square of twice its side by 164, half a place beside
# it by 113; a quarter of it, by 96.
BLACK, WHITE = 16, 235
_NEEDED_CONTRAST: Final = 104.0
_FLOAT, _INT64 = 1, 7


def write_yunet(path: Path, *, needed_contrast: float = _NEEDED_CONTRAST) -> Path:
    """Write the network: faces are squares of 32, 64 or 128 pixels, white on black; `path`."""
    nodes: list[bytes] = []
    constants: list[bytes] = [_tensor("mean", (1, 3, 1, 1), [1 / 3] * 3), _tensor("needed", (1,), [needed_contrast])]
    constants += [_integers(f"rows_{width}", [1, -1, width]) for width in (1, 4, 10)]
    constants.append(_tensor("steepness", (1,), [0.5]))
    nodes.append(_node("Conv", ["input", "mean"], "grey"))
    for stride in STRIDES:
        nodes += _scale(stride)
        size = math.log(SQUARE_STRIDES)
        # The boxes are all of one size, and in the middle of their place.
        for kind, biases in (("bbox", [0.5, 0.5, size, size]), ("kps", [0.5] * 10)):
            width = len(biases)
            constants.append(_tensor(f"{kind}_{stride}_weights", (width, 1, 1, 1), [0.0] * width))
            constants.append(_tensor(f"{kind}_{stride}_biases", (width,), biases))
            nodes.append(
                _node(
                    "Conv",
                    [f"score_{stride}", f"{kind}_{stride}_weights", f"{kind}_{stride}_biases"],
                    f"{kind}{stride}",
                )
            )
            nodes.append(_node("Transpose", [f"{kind}{stride}"], f"{kind}{stride}_last", perm=[0, 2, 3, 1]))
            nodes.append(_node("Reshape", [f"{kind}{stride}_last", f"rows_{width}"], f"{kind}_{stride}"))
    outputs = [(f"{kind}_{stride}", width) for kind, width in _OUTPUTS for stride in STRIDES]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"squares"),
            *(_field(5, constant) for constant in constants),
            _field(11, _value("input", [1, 3, "height", "width"])),
            *(_field(12, _value(name, [1, f"places_{name}", width])) for name, width in outputs),
        ]
    )
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13)))
    return path


_OUTPUTS: Final = (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))


def _scale(stride: int) -> list[bytes]:
    """Whether each place of a stride is the middle of a bright square, as a probability."""
    nodes = []
    for name, side in (("inner", SQUARE_STRIDES * stride), ("outer", 2 * SQUARE_STRIDES * stride)):
        edge = (side - stride) // 2
        window = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [edge] * 4, "count_include_pad": [1]}
        nodes.append(_node("AveragePool", ["grey"], f"{name}_{stride}", **window))
    nodes.append(_node("Sub", [f"inner_{stride}", f"outer_{stride}"], f"contrast_{stride}"))
    nodes.append(_node("Sub", [f"contrast_{stride}", "needed"], f"above_{stride}"))
    nodes.append(_node("Mul", [f"above_{stride}", "steepness"], f"steep_{stride}"))
    nodes.append(_node("Sigmoid", [f"steep_{stride}"], f"score_{stride}"))
    nodes.append(_node("Transpose", [f"score_{stride}"], f"score_{stride}_last", perm=[0, 2, 3, 1]))
    nodes += [_node("Reshape", [f"score_{stride}_last", "rows_1"], f"{kind}_{stride}") for kind in ("cls", "obj")]
    return nodes


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Sequence[int]) -> bytes:
    parts = [*(_field(1, name.encode()) for name in inputs), _field(2, output.encode()), _field(3, output.encode())]
    parts.append(_field(4, operator.encode()))
    return b"".join(parts + [_field(5, each) for each in _attributes(attributes)])


def _attributes(attributes: Mapping[str, Sequence[int]]) -> list[bytes]:
    found = []
    for name, values in attributes.items():
        if name == "count_include_pad":
            found.append(_field(1, name.encode()) + _field(3, values[0]) + _field(20, 2))
        else:
            found.append(_field(1, name.encode()) + b"".join(_field(8, value) for value in values) + _field(20, 7))
    return found


def _tensor(name: str, shape: Sequence[int], values: Sequence[float]) -> bytes:
    content = struct.pack(f"<{len(values)}f", *values)
    return (
        b"".join(_field(1, length) for length in shape)
        + _field(2, _FLOAT)
        + _field(8, name.encode())
        + _field(9, content)
    )


def _integers(name: str, values: Sequence[int]) -> bytes:
    content = struct.pack(f"<{len(values)}q", *values)
    return _field(1, len(values)) + _field(2, _INT64) + _field(8, name.encode()) + _field(9, content)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    lengths = b"".join(
        _field(1, _field(1, length) if isinstance(length, int) else _field(2, length.encode())) for length in shape
    )
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, lengths)))


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
