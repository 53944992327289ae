"""The served model: what it gives is what the library gives, and a request that fails costs only itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import requests
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import ctbasis
from ctbasis.demo.ports import free_ports
from ctbasis.errors import CtbasisError
from ctbasis.node.task import REFUSE
from ctbasis.serving.serve import Serving
from ctbasis.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.serving.model import Model

TOKEN = "a-token-of-the-test"  # noqa: S105 - an invented token

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serving.md"

LENGTH = "Inference-Header-Content-Length"

SPANS = InMemorySpanExporter()
"""The traces of the server."""


class Client:
    """A client of the protocol, which knows nothing of ctbasis."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.base + path, timeout=20)

    def infer(self, content: dict[str, Any], data: bytes = b"", name: str = "ctbasis") -> requests.Response:
        header = json.dumps(content).encode()
        fields = {LENGTH: str(len(header))} if data else {}
        url = f"{self.base}/v2/models/{name}/infer"
        return self.session.post(url, data=header + data, headers=fields, timeout=240)


def request_of(volume: ctbasis.Volume, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    hu = {"name": "hu", "datatype": "INT16", "shape": list(volume.shape)}
    spacing = {"name": "spacing", "datatype": "FP64", "shape": [3], "data": list(volume.spacing)}
    if not binary:
        return {"id": "7", "inputs": [hu | {"data": volume.hu.tolist()}, spacing]}, b""
    data = volume.hu.astype("<i2").tobytes()
    hu["parameters"] = {"binary_data_size": len(data)}
    return {"id": "7", "inputs": [hu, spacing], "parameters": {"binary_data_output": True}}, data


def outputs_of(answer: requests.Response) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    size = int(answer.headers.get(LENGTH, len(answer.content)))
    content, at = json.loads(answer.content[:size]), size
    found = {}
    for tensor in content["outputs"]:
        assert tensor["datatype"] == "FP32"
        if "data" in tensor:
            found[tensor["name"]] = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        else:
            count = tensor["parameters"]["binary_data_size"]
            found[tensor["name"]] = np.frombuffer(answer.content[at : at + count], "<f4").reshape(tensor["shape"])
            at += count
    assert at == len(answer.content)
    return content, found


@pytest.fixture(scope="module")
def served(scan: tuple[Path, Path]) -> Iterator[tuple[Client, Model]]:
    """Return a client of a running server, and its model."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SPANS))
    serving = Serving(
        (str(scan[1]),),
        host="127.0.0.1",
        port=0,
        token=TOKEN,
        unfit=REFUSE,
        queue=1,
        body_bytes=10**7,
        traces=Traces(provider),
    )
    with serving.running() as (server, model):
        client = Client(server.port)
        # Before it is loaded.
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/ctbasis/ready").json() == {"name": "ctbasis", "ready": False}
        assert client.infer({"inputs": []}).status_code == 503
        model.load()
        yield client, model


@pytest.fixture(scope="module")
def volume(scan: tuple[Path, Path]) -> ctbasis.Volume:
    return ctbasis.read(scan[0])


def test_an_inference_is_one_trace_from_the_request_to_the_stages_of_the_work(
    served: tuple[Client, Model], volume: ctbasis.Volume
) -> None:
    SPANS.clear()
    answer = served[0].infer(*request_of(volume, binary=True))
    digest = outputs_of(answer)[0]["parameters"]["basis"]
    spans = {span.name: span for span in SPANS.get_finished_spans()}
    assert list(spans) == ["wait", "choose", "denoise", "work", "POST /v2/models/{name}/infer"]
    assert len({span.context.trace_id for span in spans.values() if span.context is not None}) == 1
    attributes = dict(spans["work"].attributes or {})
    assert attributes.pop("ctbasis.seconds")
    assert attributes == {"ctbasis.voxels": volume.hu.size, "ctbasis.basis": digest}


@pytest.mark.parametrize("binary", [True, False])
def test_the_answer_is_what_the_library_gives(
    served: tuple[Client, Model], scan: tuple[Path, Path], volume: ctbasis.Volume, binary: bool
) -> None:
    client, _ = served
    answer = client.infer(*request_of(volume, binary=binary))
    assert answer.status_code == 200, answer.text
    content, outputs = outputs_of(answer)
    expected = ctbasis.denoise(ctbasis.Volume(volume.hu, volume.spacing), basis=scan[1])
    assert np.abs(outputs["denoised"] - expected.hu).max() < 1e-3
    assert expected.noise is not None
    assert np.abs(outputs["sigma"] - expected.noise.sigma).max() < 1e-3
    assert (content["id"], content["model_name"]) == ("7", "ctbasis")
    (basis,) = client.get("/v2/models/ctbasis").json()["properties"]["bases"]
    assert content["parameters"]["basis"] == basis["digest"]


def test_the_example_of_the_page_is_answered(
    served: tuple[Client, Model],
    scan: tuple[Path, Path],
    volume: ctbasis.Volume,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CTBASIS_HTTP_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    code = code.replace("http://localhost:8080", served[0].base).replace("ct/patient-1", str(scan[0]))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the code of the page
    assert names["denoised"].shape == names["sigma"].shape == volume.shape
    assert "'basis'" in capsys.readouterr().out


def test_one_output_alone_is_sent(served: tuple[Client, Model], volume: ctbasis.Volume) -> None:
    client, _ = served
    content, data = request_of(volume, binary=True)
    answer = client.infer({**content, "outputs": [{"name": "sigma", "parameters": {"binary_data": False}}]}, data)
    assert list(outputs_of(answer)[1]) == ["sigma"]


def test_health_metadata_and_metrics(served: tuple[Client, Model]) -> None:
    client, _ = served
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/ctbasis/ready").json() == {"name": "ctbasis", "ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    found = client.get("/v2/models/ctbasis").json()
    assert [(one["name"], one["datatype"]) for one in found["inputs"]] == [("hu", "INT16"), ("spacing", "FP64")]
    assert [one["name"] for one in found["outputs"]] == ["denoised", "sigma"]
    assert client.get("/v2/models/other").status_code == 404
    metrics = client.get("/metrics").text
    assert "ctbasis_model_ready 1.0" in metrics
    assert "ctbasis_model_bases 1.0" in metrics
    assert "/v2/models/{name}/infer" in client.get("/openapi.json").json()["paths"]
    del client.session.headers["Authorization"]
    try:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2/models/ctbasis/ready").status_code == 200
        for answer in (client.get("/v2/models/ctbasis"), client.infer({"inputs": []})):
            assert answer.status_code == 401
    finally:
        client.session.headers["Authorization"] = f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("changed", "status", "match"),
    [
        ({"shape": [6, 96, 95]}, 400, "bytes"),
        ({"shape": [1, 576, 96]}, 422, "no stored basis fits"),
        ({"shape": [576, 96]}, 400, "three dimensions"),
        ({"datatype": "UINT16"}, 400, "INT16"),
        ({"name": "image"}, 400, "other tensors"),
    ],
)
def test_a_volume_that_cannot_be_used_is_refused(
    served: tuple[Client, Model], volume: ctbasis.Volume, changed: dict[str, Any], status: int, match: str
) -> None:
    client, _ = served
    content, data = request_of(volume, binary=True)
    content["inputs"][0].update(changed)
    answer = client.infer(content, data)
    assert (answer.status_code, match in answer.json()["error"] + answer.json().get("expected", "")) == (status, True)


def test_a_volume_that_no_basis_fits_is_refused(served: tuple[Client, Model], volume: ctbasis.Volume) -> None:
    client, _ = served
    content, data = request_of(volume, binary=True)
    content["inputs"][1]["data"] = [9.0, 40.0, 40.0]
    answer = client.infer(content, data)
    assert answer.status_code == 422
    assert "no stored basis fits" in answer.json()["error"]
    assert "/" not in answer.json()["error"], "a path of the server"
    content["inputs"][1]["data"] = [0.0, 1.0, 1.0]
    assert client.infer(content, data).status_code == 400


def test_a_request_over_the_limit_is_refused(served: tuple[Client, Model]) -> None:
    assert served[0].infer({"inputs": []}, b"x" * 10_000_001).status_code == 413


def test_requests_beyond_the_queue_are_told_to_come_back(served: tuple[Client, Model], volume: ctbasis.Volume) -> None:
    client, _ = served
    content, data = request_of(volume, binary=True)
    answers: list[requests.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(client.infer(content, data))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(200) >= 2
    assert set(codes) == {200, 503}
    assert next(one for one in answers if one.status_code == 503).headers["Retry-After"] == "5"
    assert 'ctbasis_inference_failures_total{reason="busy"}' in client.get("/metrics").text


def test_a_process_that_dies_costs_one_request(served: tuple[Client, Model], volume: ctbasis.Volume) -> None:
    client, model = served
    content, data = request_of(volume, binary=True)
    answers: list[requests.Response] = []
    given = model._worker.requests
    thread = threading.Thread(target=lambda: answers.append(client.infer(content, data)))
    thread.start()
    while model._worker.requests == given:
        time.sleep(0.001)
    assert model._worker.pid is not None
    os.kill(model._worker.pid, signal.SIGKILL)
    thread.join()
    assert answers[0].status_code == 503
    assert "SIGKILL" in answers[0].json()["error"]
    assert client.infer(content, data).status_code == 200


def test_the_verb_serves_until_sigterm_and_leaves_nothing(scan: tuple[Path, Path], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ctbasis.cli", "serve", "--basis", str(scan[1]), "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CTBASIS_HTTP_TOKEN": TOKEN}
    with subprocess.Popen([*command, "--host", "127.0.0.1"], env=environment, stderr=subprocess.PIPE, text=True) as run:
        client = Client(port)
        deadline = time.monotonic() + 120
        ready = False
        while not ready and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.2)
            try:
                ready = client.get("/v2/health/ready").status_code == 200
            except requests.ConnectionError:
                continue
        assert ready
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        _, log = run.communicate(timeout=30)
    assert run.returncode == 0
    assert "ctbasis is ready with 1 bases" in log
    assert "WARNING" not in log
    assert not [one for one in children if one.is_running()]
    assert [path.name for path in tmp_path.iterdir() if "serv" in path.name] == []


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_basis_that_cannot_be_used_ends_the_start(scan: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    basis = tmp_path / "basis"
    if fault == "damaged":
        shutil.copytree(scan[1], basis)
        largest = max((path for path in basis.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-10])
    serving = Serving((str(basis),), host="127.0.0.1", port=0)
    with serving.running() as (_, model), pytest.raises(CtbasisError):
        model.load()
