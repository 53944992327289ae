"""Tensors of the Open Inference Protocol, version 2: arrays as numbers in JSON, or as bytes after the JSON.

The second is the protocol's extension for binary tensors, as Triton and KServe have it: the header
`Inference-Header-Content-Length` states the length of the JSON, and the parameter `binary_data_size` of a tensor the
length of its bytes, little-endian, in the order of the tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.web.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HEADER_LENGTH = "Inference-Header-Content-Length"

TYPES = {
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""NumPy's type of each datatype that is accepted or sent."""

MOST_DIMENSIONS = 8

MOST_TENSORS = 16

MOST_JSON_BYTES = 64 << 20
"""Bytes of the JSON of a request at most. Python's objects for the numbers take many times as much; larger volumes are
sent as bytes."""


@dataclass(frozen=True)
class Request:
    """A request of inference.

    Attributes:
        id: Identifier that the client gives; empty if it gives none.
        inputs: Input arrays by name.
        outputs: Names of the outputs that are asked for; empty for all.
        binary: Names of the outputs that are asked for as bytes.
        binary_default: Whether outputs are bytes unless they are asked for otherwise.
        plain: Names of the outputs that are asked for as numbers.
    """

    id: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    plain: frozenset[str] = frozenset()
    binary_default: bool = False

    def is_binary(self, name: str) -> bool:
        """Return whether an output is to be sent as bytes."""
        return name in self.binary or (self.binary_default and name not in self.plain)

    @classmethod
    def decode(cls, body: bytes, header_length: str | None) -> Request:
        """Decode the body of a request.

        Args:
            body: The body.
            header_length: Value of the header field `HEADER_LENGTH`; None if it is not there.

        Raises:
            BadRequestError: It is no request of the protocol.
        """
        if header_length is not None and (not header_length.isdecimal() or int(header_length) > len(body)):
            raise _invalid(f"{HEADER_LENGTH} is not the length of a part of the body")
        size = len(body) if header_length is None else int(header_length)
        if size > MOST_JSON_BYTES:
            raise _invalid(f"its JSON has more than {MOST_JSON_BYTES >> 20} MiB", expected="the voxels as bytes")
        try:
            content = json.loads(body[:size])
        except (ValueError, RecursionError) as error:
            raise _invalid(f"it is no JSON document ({type(error).__name__})") from None
        if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
            raise _invalid("it has no list `inputs`")
        if len(content["inputs"]) > MOST_TENSORS:
            raise _invalid(f"it has more than {MOST_TENSORS} inputs")
        inputs: dict[str, NDArray[Any]] = {}
        at = size
        for tensor in content["inputs"]:
            name, array, used = _decode_tensor(tensor, memoryview(body)[at:])
            if name in inputs:
                raise _invalid(f"it has two inputs {name!r}")
            inputs[name] = array
            at += used
        if at != len(body):
            raise _invalid(f"{len(body) - at} bytes of it belong to no tensor")
        asked = content.get("outputs") or []
        if not isinstance(asked, list) or not all(
            isinstance(one, dict) and isinstance(one.get("name"), str) for one in asked
        ):
            raise _invalid("`outputs` is no list of tensors with names")
        wishes = {one["name"]: _parameters(one).get("binary_data") for one in asked}
        return cls(
            str(content.get("id") or ""),
            inputs,
            tuple(wishes),
            frozenset(name for name, binary in wishes.items() if binary),
            frozenset(name for name, binary in wishes.items() if binary is False),
            bool(_parameters(content).get("binary_data_output")),
        )


def encode(
    answer: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]], request: Request
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer, and its header fields.

    Args:
        answer: The answer without its outputs.
        outputs: Output arrays by name.
        request: The request, which says how they are to be sent.
    """
    described: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for name, array in outputs.items():
        datatype = next(key for key, kind in TYPES.items() if np.dtype(kind) == array.dtype)
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if request.is_binary(name):
            pieces.append(np.ascontiguousarray(array, TYPES[datatype]).tobytes())
            tensor["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    header = json.dumps({**answer, "outputs": described}).encode()
    if not pieces:
        return header, {"Content-Type": "application/json"}
    fields = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *pieces]), fields


def _decode_tensor(tensor: Any, rest: memoryview) -> tuple[str, NDArray[Any], int]:
    """Return name and array of a tensor, and how many bytes of `rest` it has used."""
    name = tensor.get("name") if isinstance(tensor, dict) else None
    if not isinstance(name, str):
        raise _invalid("an input has no name")
    kind, shape = TYPES.get(str(tensor.get("datatype"))), tensor.get("shape")
    if kind is None:
        raise _invalid(f"the datatype of {name!r} is not supported", expected=" or ".join(TYPES))
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS or not all(map(_is_size, shape)):
        raise _invalid(f"the shape of {name!r} is no list of sizes")
    size = _parameters(tensor).get("binary_data_size")
    count = prod(shape)
    if size is None:
        return name, _numbers(tensor.get("data"), kind, count, name).reshape(shape), 0
    if not _is_size(size) or size != count * np.dtype(kind).itemsize or size > len(rest):
        raise _invalid(f"the bytes of {name!r} are not as many as its shape and datatype demand, or not all there")
    return name, np.frombuffer(rest[:size], kind).reshape(shape), size


def _numbers(data: Any, kind: str, count: int, name: str) -> NDArray[Any]:
    """Return numbers in JSON, in nested lists or one list, as an array."""
    if not isinstance(data, list):
        raise _invalid(f"the input {name!r} has neither data nor binary_data_size")
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise _invalid(f"the data of {name!r} is no array of numbers") from None
    if array.size != count:
        raise _invalid(f"the input {name!r} has {array.size} numbers, its shape has {count}")
    if not count:
        return array.astype(kind)
    limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else None
    if array.dtype.kind not in "iuf" or (limits is not None and array.dtype.kind == "f"):
        raise _invalid(f"the data of {name!r} is not of its datatype")
    if limits is not None and (array.min() < limits.min or array.max() > limits.max):
        raise _invalid(f"the data of {name!r} exceeds the range of its datatype")
    return array.astype(kind)


def _parameters(part: Mapping[str, Any]) -> Mapping[str, Any]:
    found = part.get("parameters")
    return found if isinstance(found, dict) else {}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _invalid(fault: str, *, expected: str = "") -> BadRequestError:
    return BadRequestError(
        f"the request cannot be used: {fault}",
        expected=expected or "a request of the Open Inference Protocol, version 2",
        cause="the client speaks another protocol, or the tensors are described wrongly",
        remedy="compare the request with docs/how-to/serving.md",
    )
