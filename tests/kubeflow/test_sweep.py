"""`ctbasis sweep`: what is left of runs on S3 goes once nobody can retry them. The Kubeflow server is a stand-in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.pod import POD_NAME
from ctbasis.kubeflow.lint import rendered
from ctbasis.kubeflow.server import NoAnswerError, connect
from ctbasis.kubeflow.submit import start
from ctbasis.kubeflow.sweep import Decision, sweep
from ctbasis.parameters import DeidentificationPlan
from ctbasis.steps import cleanup
from ctbasis.storage import run_folders, stores
from tests.kubeflow.kfp_stand_in import ARGUMENTS, KfpStandIn
from tests.services import server
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kfp.client import Client

__all__ = ["server"]

pytestmark = pytest.mark.usefixtures("alone")

DAY = timedelta(days=1)
A = np.ones((40, 3), dtype=np.int16)


def left_by(run: str, prefix: str, *, on_kubeflow: bool = True) -> None:
    """Write what a run leaves below a prefix."""
    run_folders.mark(f"{prefix}/{run}", run, on_kubeflow=on_kubeflow)
    write_matrix(f"{prefix}/{run}/matrix.zarr", A)


def swept(prefix: str, client: Client | None, *, later: timedelta = timedelta(), **settings: Any) -> list[Decision]:
    now = datetime.now(UTC) + later
    return list(sweep(prefix, older_than=DAY, client=client, now=now, **settings))


def runs_below(prefix: str) -> set[str]:
    return {key.split("/")[0] for key in stores.keys(prefix)}


@pytest.fixture
def kfp() -> Iterator[KfpStandIn]:
    """Return a single-user stand-in for Kubeflow; the fixture `server` is the S3 server here."""
    with KfpStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def client(kfp: KfpStandIn) -> Client:
    return connect(kfp.url)


def test_the_stores_of_a_run_that_failed_stay_a_day_for_its_retry_and_then_go(
    kfp: KfpStandIn, client: Client, prefix: str
) -> None:
    kfp.failing, kfp.stride = "svd", 99
    run = start(client, arguments=ARGUMENTS)
    left_by(run, prefix)
    (decision,) = swept(prefix, client, later=timedelta(hours=2))
    assert not decision.remove
    assert "the run ended as FAILED" in decision.reason
    assert runs_below(prefix) == {run}
    (decision,) = swept(prefix, client, later=timedelta(hours=25))
    assert decision.remove
    assert runs_below(prefix) == set()
    assert kfp.refused == []


def test_the_stores_of_a_run_that_is_not_over_stay_however_long_it_waits(
    kfp: KfpStandIn, client: Client, prefix: str
) -> None:
    kfp.stuck = True
    run = start(client, arguments=ARGUMENTS)
    left_by(run, prefix)
    (decision,) = swept(prefix, client, later=timedelta(days=300))
    assert decision.reason == "the run is RUNNING"
    assert runs_below(prefix) == {run}


def test_the_stores_of_a_run_that_the_server_no_longer_has_go(client: Client, prefix: str) -> None:
    left_by("0f0c1d9e-deleted", prefix)
    (decision,) = swept(prefix, client)
    assert not decision.remove, "a run that is being created may not be listed yet"
    (decision,) = swept(prefix, client, later=timedelta(hours=2))
    assert decision.remove
    assert "the server has no such run" in decision.reason
    assert runs_below(prefix) == set()


def test_a_run_of_this_machine_is_unknown_to_the_server_and_goes_by_its_age_alone(client: Client, prefix: str) -> None:
    left_by("run-1", prefix, on_kubeflow=False)
    assert not swept(prefix, client, later=timedelta(hours=23))[0].remove
    assert swept(prefix, client, later=timedelta(hours=25))[0].remove


def test_without_a_server_the_time_of_the_last_write_decides(prefix: str) -> None:
    left_by("run-1", prefix)
    assert not swept(prefix, None, later=timedelta(hours=23))[0].remove
    assert swept(prefix, None, later=timedelta(hours=25))[0].remove
    assert runs_below(prefix) == set()


def test_a_dry_run_decides_and_removes_nothing(prefix: str) -> None:
    left_by("run-1", prefix)
    (decision,) = swept(prefix, None, later=timedelta(days=9), dry_run=True)
    assert str(decision).startswith(f"remove {prefix}/run-1: last written 9")
    assert runs_below(prefix) == {"run-1"}


def test_a_server_that_does_not_answer_removes_nothing(kfp: KfpStandIn, client: Client, prefix: str) -> None:
    run = start(client, arguments=ARGUMENTS)
    left_by(run, prefix)
    kfp.outages = 1
    with pytest.raises(NoAnswerError):
        swept(prefix, client, later=timedelta(days=300))
    assert runs_below(prefix) == {run}


def test_a_run_that_the_account_may_not_see_stays(kfp: KfpStandIn, client: Client, prefix: str) -> None:
    left_by("run-of-another-profile", prefix)
    kfp.token = "of-somebody-else"  # noqa: S105 - an invented token
    (decision,) = swept(prefix, client, later=timedelta(days=300))
    assert not decision.remove
    assert "refuses" in decision.reason


@pytest.mark.parametrize("prefix_given", ["", "/workspace", "s3://bucket/../other"])
def test_a_prefix_that_is_none_is_refused(prefix_given: str) -> None:
    with pytest.raises(CtbasisError):
        swept(prefix_given, None)


@pytest.mark.parametrize("on_kubeflow", [True, False])
def test_the_matrix_step_marks_the_folder_that_it_writes_to_even_if_it_then_fails(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_kubeflow: bool
) -> None:
    from ctbasis.steps.matrix import run_step

    monkeypatch.setenv(POD_NAME, "run-1-matrix" if on_kubeflow else "")
    (tmp_path / "source").mkdir()
    with pytest.raises(CtbasisError):
        run_step(
            tmp_path / "source",
            None,
            DeidentificationPlan(),
            tmp_path / "qc.json",
            workspace=str(tmp_path),
            store=prefix,
            run="run-1",
        )
    (folder,) = run_folders.marked(prefix)
    assert (folder.run, folder.on_kubeflow) == ("run-1", on_kubeflow)
    cleanup.run_step(tmp_path, prefix, "run-1", succeeded=True)
    assert list(stores.keys(prefix)) == []


def test_the_command_lists_what_it_does(prefix: str) -> None:
    left_by("run-1", prefix)
    done = CliRunner().invoke(main, ["sweep", prefix, "--older-than", "0m"], standalone_mode=False)
    assert done.exception is None
    assert f"remove {prefix}/run-1: last written 0.0 h ago" in done.stdout
    assert done.stdout.endswith("1 folders of runs, 1 removed\n")
    assert runs_below(prefix) == set()


@pytest.mark.parametrize("duration", ["", "24", "h", "-1h", "1.5h", "1w", "1h30m", "٣h"])
def test_a_duration_without_a_unit_is_refused(duration: str) -> None:
    done = CliRunner().invoke(main, ["sweep", "s3://bucket/prefix", "--older-than", duration])
    assert done.exit_code == 2
    assert "is no duration" in done.output


def test_a_token_file_that_is_missing_is_named(tmp_path: Path, kfp: KfpStandIn) -> None:
    path = str(tmp_path / "token")
    done = CliRunner().invoke(
        main,
        ["sweep", "s3://bucket/prefix", "--host", kfp.url],
        env={"KF_PIPELINES_SA_TOKEN_PATH": path},
    )
    assert done.exit_code == 2
    assert f"the token at {path} cannot be read" in done.output


def test_the_cron_job_calls_the_command_with_settings_that_its_config_map_has(tmp_path: Path) -> None:
    component = LAYOUT.manifests / "components" / "sweep"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kustomization.yaml").write_text(
        yaml.safe_dump({"namespace": "kubeflow", "resources": [], "components": [str(component)]})
    )
    documents = {one["kind"]: one for one in rendered.render(tmp_path / "base")}
    assert list(rendered.faults(tmp_path / "base")) == []
    pod = documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = documents["ConfigMap"]["data"]
    environment = {}
    for entry in container["env"]:
        reference = entry.get("valueFrom", {}).get("configMapKeyRef")
        environment[entry["name"]] = settings[reference["key"]] if reference else entry["value"]
    arguments = [environment.get(one.strip("$()"), one) for one in container["args"]]
    assert arguments[:4] == ["python3", "-m", "ctbasis.cli", "sweep"]
    # The prefix is the administrator's; without it, the command refuses.
    environment["KF_PIPELINES_SA_TOKEN_PATH"] = environment["CTBASIS_KFP_HOST"] = ""
    done = CliRunner().invoke(main, arguments[3:], env=environment)
    assert done.exit_code == 2
    assert "no prefix is given" in done.output
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/tmp", "/var/run/secrets/kubeflow/pipelines"} <= mounts  # noqa: S108 - a volume of the pod
