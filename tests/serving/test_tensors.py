"""Tensors of the Open Inference Protocol: in JSON or as bytes they are the same, and what is none is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.errors import CtbasisError
from ctbasis.serving.tensors import TYPES, Request, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plain(array: NDArray[Any], datatype: str, name: str = "hu") -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.tolist()}


@pytest.mark.parametrize("datatype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (), (0, 3)])
@pytest.mark.parametrize("binary", [True, False])
def test_a_tensor_is_the_same_after_an_answer_and_a_request(
    datatype: str, shape: tuple[int, ...], binary: bool
) -> None:
    values = np.random.default_rng(1).integers(0, 100, shape).astype(TYPES[datatype])
    asked = Request("7", {}, binary_default=binary)
    body, fields = encode({"model_name": "m"}, {"a": values, "b": values}, asked)
    length = fields.get("Inference-Header-Content-Length")
    assert (length is not None) is binary
    answer = json.loads(body[: int(length)] if length else body)
    assert answer["model_name"] == "m"
    # An answer has the form of a request, with other names.
    size = int(length) if length else len(body)
    request = json.dumps({"id": "7", "inputs": answer["outputs"]}).encode()
    again = Request.decode(request + body[size:], str(len(request)) if binary else None)
    assert again.id == "7"
    for array in again.inputs.values():
        assert array.dtype == np.dtype(TYPES[datatype])
        assert array.shape == shape
        assert (array == values).all()


def test_each_output_is_sent_as_it_is_asked_for() -> None:
    content = {
        "inputs": [],
        "outputs": [
            {"name": "a", "parameters": {"binary_data": False}},
            {"name": "b"},
            {"name": "c", "parameters": {"binary_data": True}},
        ],
        "parameters": {"binary_data_output": True},
    }
    request = Request.decode(json.dumps(content).encode(), None)
    assert request.outputs == ("a", "b", "c")
    assert [request.is_binary(name) for name in "abc"] == [False, True, True]
    del content["parameters"]
    request = Request.decode(json.dumps(content).encode(), None)
    assert [request.is_binary(name) for name in "abc"] == [False, False, True]


def test_flat_and_nested_data_are_the_same() -> None:
    values = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
    flat = plain(values, "INT16") | {"data": values.ravel().tolist()}
    decoded = [Request.decode(json.dumps({"inputs": [one]}).encode(), None) for one in (plain(values, "INT16"), flat)]
    assert all((one.inputs["hu"] == values).all() for one in decoded)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"shape": [2, 2]}, "has 3 numbers, its shape has 4"),
        ({"shape": [-3]}, "shape"),
        ({"shape": [True, 3]}, "shape"),
        ({"shape": "3"}, "shape"),
        ({"shape": [1] * 9}, "shape"),
        ({"datatype": "BYTES"}, "datatype"),
        ({"data": [1.5, 2, 3]}, "not of its datatype"),
        ({"data": [1, 2, 40000]}, "exceeds the range"),
        ({"data": [1, 2, 10**30]}, "not of its datatype"),
        ({"data": ["1", "2", "3"]}, "not of its datatype"),
        ({"data": [[1], [2, 3]]}, "no array of numbers"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"name": 7}, "no name"),
        ({"parameters": {"binary_data_size": 6}}, "bytes"),
        ({"parameters": {"binary_data_size": -6}}, "bytes"),
        ({"parameters": {"binary_data_size": 10**20}, "shape": [5 * 10**19]}, "bytes"),
    ],
)
def test_a_tensor_that_is_described_wrongly_is_refused(changed: dict[str, Any], match: str) -> None:
    tensor = plain(np.array([1, 2, 3]), "INT16") | changed
    with pytest.raises(CtbasisError, match=match):
        Request.decode(json.dumps({"inputs": [tensor]}).encode(), None)


@pytest.mark.parametrize(
    ("body", "length", "match"),
    [
        (b"", None, "no JSON"),
        (b"[" * 100_000, None, "no JSON"),
        (b"[]", None, "no list `inputs`"),
        (b'{"inputs": {}}', None, "no list `inputs`"),
        (b'{"inputs": [7]}', None, "no name"),
        (b'{"inputs": [], "outputs": 7}', None, "outputs"),
        (b'{"inputs": [], "outputs": [{"name": []}]}', None, "outputs"),
        (b'{"inputs": []}xx', "14", "2 bytes of it belong to no tensor"),
        (b'{"inputs": []}', "15", "Inference-Header-Content-Length"),
        (b'{"inputs": []}', "-1", "Inference-Header-Content-Length"),
        (b'{"inputs": []}', "x", "Inference-Header-Content-Length"),
        (json.dumps({"inputs": [plain(np.zeros(1), "FP32")] * 2}).encode(), None, "two inputs"),
        (json.dumps({"inputs": [plain(np.zeros(1), "FP32")] * 17}).encode(), None, "more than 16"),
        (b" " * (65 << 20), None, "more than 64 MiB"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, length: str | None, match: str) -> None:
    with pytest.raises(CtbasisError, match=match):
        Request.decode(body, length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "outputs")
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(content=JSON, rest=st.binary(max_size=20))
def test_any_document_is_decoded_or_refused(content: Any, rest: bytes) -> None:
    header = json.dumps({"inputs": [content], "outputs": content, "parameters": content}).encode()
    try:
        Request.decode(header + rest, str(len(header)))
    except CtbasisError as error:
        refused = str(error)
        assert "the request cannot be used" in refused
