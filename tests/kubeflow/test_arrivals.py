"""New series below a prefix: one run for each folder that no run has processed yet."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ctbasis.cli import main
from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.kubeflow import arrivals as module
from ctbasis.kubeflow.arrivals import arrivals
from ctbasis.kubeflow.lint import rendered
from ctbasis.kubeflow.server import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kubeflow.kfp_stand_in import KfpStandIn

pytestmark = pytest.mark.usefixtures("alone")

INCOMING = "s3://clinic/incoming"


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return a prefix with two folders of a series each, and an object beside them."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    prefix = f"{INCOMING}-{abs(hash(request.node.name))}"
    for folder in ("a", "b/deep"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "1.dcm").write_bytes(b"x")
    (tmp_path / "in" / "readme.txt").write_bytes(b"x")
    store.put_folder(tmp_path / "in", prefix)
    return prefix


def later(minutes: int) -> datetime:
    return datetime.now(tz=UTC) + timedelta(minutes=minutes)


def submit_new(server: KfpStandIn, prefix: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["submit", prefix, "--host", server.url, "--new", *options])


def test_a_folder_is_new_once_nothing_was_added_to_it_for_a_while_and_until_it_is_old(
    bucket: str, server: KfpStandIn
) -> None:
    client = connect(server.url)

    def states(minutes: int) -> dict[str, str]:
        found = arrivals(client, bucket, newer_than=timedelta(days=1), now=later(minutes))
        return {one.source.removeprefix(f"{bucket}/"): one.state for one in found}

    assert states(0) == {"a": "arriving", "b": "arriving"}
    assert states(11) == {"a": "new", "b": "new"}
    assert states(24 * 60 + 1) == {"a": "old", "b": "old"}


def test_each_new_folder_gets_one_run_however_often_the_schedule_comes(
    bucket: str, server: KfpStandIn, tmp_path: Path, store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "0 new, 2 arriving" in submit_new(server, bucket).stderr
    monkeypatch.setattr(module, "QUIET", timedelta(seconds=-1))
    first = submit_new(server, bucket, "--rank", "20")
    assert first.exit_code == 0, first.output
    assert {run.arguments["source"] for run in server.runs.values()} == {f"{bucket}/a", f"{bucket}/b"}
    assert {run.arguments["rank"] for run in server.runs.values()} == {"20"}
    assert sorted(line.split()[1] for line in first.stdout.splitlines()) == [f"{bucket}/a", f"{bucket}/b"]
    assert "2 folders" in first.stderr

    again = submit_new(server, bucket)
    assert (again.stdout, len(server.runs)) == ("", 2)
    assert "0 new, 0 arriving, 2 seen, 0 old" in again.stderr

    (tmp_path / "more" / "b").mkdir(parents=True)
    (tmp_path / "more" / "b" / "2.dcm").write_bytes(b"y")
    for run in server.runs.values():  # As if the run of b were an hour old.
        run.created = later(1 if run.arguments["source"].endswith("/a") else -60)
    store.put_folder(tmp_path / "more", bucket)
    extended = submit_new(server, bucket)
    assert [line.split()[1] for line in extended.stdout.splitlines()] == [f"{bucket}/b"]
    assert len(server.runs) == 3
    assert server.refused == []


def test_runs_of_another_experiment_do_not_count(
    bucket: str, server: KfpStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", timedelta(seconds=-1))
    for experiment in ("one", "two"):
        assert submit_new(server, bucket, "--experiment", experiment).exit_code == 0
    assert len(server.runs) == 4


def test_the_cron_job_starts_the_runs_with_the_settings_of_its_config_map(
    bucket: str, server: KfpStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = LAYOUT.manifests / "components" / "new-series"
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    image = "registry.example.com/steps:0.1.0"
    settings = {"source": bucket, "host": server.url, "steps-image": image}
    patch = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ctbasis-new-series"}, "data": settings}
    kustomization: dict[str, Any] = {"namespace": "kubeflow", "components": [os.path.relpath(component, overlay)]}
    kustomization["patches"] = [{"patch": yaml.safe_dump(patch)}]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert list(rendered.faults(overlay)) == []
    documents = {one["kind"]: one for one in rendered.render(overlay)}
    (container,) = documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    data = documents["ConfigMap"]["data"]
    environment = {
        entry["name"]: data[entry["valueFrom"]["configMapKeyRef"]["key"]] if "valueFrom" in entry else entry["value"]
        for entry in container["env"]
    }
    environment["KF_PIPELINES_SA_TOKEN_PATH"] = ""
    arguments = [environment.get(one.removeprefix("$(").removesuffix(")"), one) for one in container["args"]]
    monkeypatch.setattr(module, "QUIET", timedelta(seconds=-1))
    done = CliRunner().invoke(main, arguments[3:], env=environment)
    assert done.exit_code == 0, done.output
    assert {run.arguments["source"] for run in server.runs.values()} == {f"{bucket}/a", f"{bucket}/b"}
    (run, _) = server.runs.values()
    assert run.arguments["mode"] == "patch"
    executors = run.package["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {image}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--run-name", "x"), "--new starts several runs"),
        (("--upload-only",), "--new starts several runs"),
        (("--timeout", "5"), "belong to a run that is waited for"),
        (("--newer-than", "soon"), "is no duration"),
        (("--oversample", "-1"), "oversample is -1"),
    ],
)
def test_what_does_not_go_with_new_is_refused(options: tuple[str, ...], message: str, server: KfpStandIn) -> None:
    result = submit_new(server, INCOMING, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.runs == {}


def test_a_folder_of_this_machine_has_no_new_series(server: KfpStandIn, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="is not on S3"):
        arrivals(connect(server.url), str(tmp_path))
