"""Check a running `ctbasis serve` with KServe's own client, and the InferenceService with the models of KServe's SDK.

KServe's package cannot be installed beside ctbasis: it demands psutil below 6. Run this program with another Python:

    uv venv kserve && uv pip install --python kserve kserve pyyaml
    ctbasis serve --basis BASIS --host 127.0.0.1 --port 8080 &
    kserve/bin/python tests/serving/kserve_check.py http://127.0.0.1:8080
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kserve import (
    ApiClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
    V1beta1InferenceService,
    V1beta1InferenceServiceSpec,
    V1beta1PredictorSpec,
)
from kserve.protocol.infer_type import RequestedOutput

SHAPE = (6, 96, 96)

SPACING = (3.0, 4.0, 4.0)


def request(*, binary: bool) -> InferRequest:
    """Return a request for a volume of noise."""
    hu = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.int16)
    volume = InferInput("hu", list(SHAPE), "INT16")
    volume.set_data_from_numpy(hu, binary_data=binary)
    spacing = InferInput("spacing", [3], "FP64")
    spacing.set_data_from_numpy(np.array(SPACING), binary_data=binary)
    outputs = [RequestedOutput(name, parameters={"binary_data": binary}) for name in ("denoised", "sigma")]
    return InferRequest("ctbasis", [volume, spacing], request_id="7", request_outputs=outputs)


async def check_client(base: str) -> None:
    """Call every method of the client that concerns a model."""
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=300))
    token = os.environ.get("CTBASIS_HTTP_TOKEN", "")
    assert await client.is_server_live(base)
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "ctbasis")
    found = []
    for binary in (True, False):
        # The client adds fields of its own to the given ones.
        headers = {"Authorization": f"Bearer {token}"} if token else None
        answer = await client.infer(base, request(binary=binary), model_name="ctbasis", headers=headers)
        assert answer.id == "7"
        assert answer.model_name == "ctbasis"
        outputs = {one.name: one.as_numpy() for one in answer.outputs}
        assert {name: (one.shape, one.dtype) for name, one in outputs.items()} == {
            name: (SHAPE, np.dtype(np.float32)) for name in ("denoised", "sigma")
        }
        found.append(outputs)
        print("infer", "binary" if binary else "JSON", answer.parameters)  # noqa: T201 - the result of this program
    assert all(np.allclose(found[0][name], found[1][name]) for name in found[0])
    await client.close()


def check_manifest(path: Path) -> None:
    """Build the InferenceService by the SDK's models, which refuse unknown fields, and compare what they write."""
    document = yaml.safe_load(path.read_text())
    predictor = made(V1beta1PredictorSpec, document["spec"]["predictor"])
    service = V1beta1InferenceService(
        document["apiVersion"], document["kind"], document["metadata"], V1beta1InferenceServiceSpec(predictor=predictor)
    )
    assert ApiClient().sanitize_for_serialization(service) == document
    print("manifest", document["metadata"]["name"])  # noqa: T201 - the result of this program


def made(model: type[Any], content: dict[str, Any]) -> Any:
    """Return a model of the SDK with the fields of a document."""
    names = {key: attribute for attribute, key in model.attribute_map.items()}
    return model(**{names[key]: value for key, value in content.items()})


if __name__ == "__main__":
    asyncio.run(check_client(sys.argv[1]))
    check_manifest(Path(__file__).parents[2] / "manifests" / "serving" / "kserve" / "inference-service.yaml")
