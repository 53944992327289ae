"""`ctbasis submit` with a stand-in for a Kubeflow server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from ctbasis.cli import main
from ctbasis.parameters import PARAMETERS, SOURCE
from tests.kubeflow.kfp_stand_in import KfpStandIn, picture, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("alone")

CT = "s3://clinic/series-7"

# If pytest itself runs in the background, processes that it starts ignore Ctrl-C by default.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from ctbasis.cli import main; main()"
)


def ctbasis(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def guarded() -> Iterator[KfpStandIn]:
    """Return a stand-in that requires a token."""
    with KfpStandIn(token="the-secret") as stand_in:  # noqa: S106 - token of the stand-in
        yield stand_in


def test_submit_runs_the_package_prints_the_address_of_the_run_and_fetches_its_results(
    server: KfpStandIn, tmp_path: Path
) -> None:
    options = ["--experiment", "trial", "--run-name", "mine", "--rank", "20", "--seed", "7", "--out", tmp_path / "out"]
    result = ctbasis("submit", CT, "--host", server.url, *options)
    assert result.exit_code == 0, result.output
    assert server.refused == []
    (run,) = server.runs.values()
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert run.arguments == {**defaults, SOURCE.name: CT, "rank": "20", "seed": 7}
    assert (run.name, [one["display_name"] for one in server.experiments.values()]) == ("mine", ["trial"])
    url, *metrics, _ = result.stdout.splitlines()
    assert url == f"{server.url}/#/runs/details/{run.run_id}"
    assert metrics == ["psnr_after: 38.5", "rank: 50", "rows: 262144"]
    mode, *progress = result.stderr.splitlines()
    assert mode == "mode: auto chose global, because --rank is given, which only global mode uses"
    assert [line.split(" ", 1)[1] for line in progress][::2] == [f"{step}: running" for step in steps(run.package)]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == server.metrics
    assert (tmp_path / "out" / "figure1.png").read_bytes() == picture()


def test_submit_reads_host_and_token_from_the_environment_and_never_prints_the_token(
    guarded: KfpStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTBASIS_KFP_HOST", guarded.url)
    refused = ctbasis("submit", CT, "--no-wait")
    assert refused.exit_code == 2
    assert "set CTBASIS_KFP_TOKEN" in refused.stderr
    monkeypatch.setenv("CTBASIS_KFP_TOKEN", "the-secret")
    accepted = ctbasis("submit", CT, "--no-wait")
    assert accepted.exit_code == 0, accepted.output
    assert "the-secret" not in refused.output + accepted.output


@pytest.mark.parametrize(
    ("options", "mode"),
    [((), "patch"), (("--ranks", "20,40"), "global"), (("--mode", "global"), "global"), (("--tau", "2"), "patch")],
)
def test_submit_resolves_the_mode_before_it_sends_the_run(
    server: KfpStandIn, options: tuple[str, ...], mode: str
) -> None:
    result = ctbasis("submit", CT, "--host", server.url, "--no-wait", *options)
    assert result.exit_code == 0, result.output
    (run,) = server.runs.values()
    assert run.arguments["mode"] == mode
    assert result.stderr.count("mode: auto chose") == ("--mode" not in options)


def test_submit_needs_a_named_mode_for_a_basis_that_only_the_server_reaches(server: KfpStandIn, tmp_path: Path) -> None:
    options = (CT, "--host", server.url, "--no-wait", "--basis", tmp_path / "nowhere")
    refused = ctbasis("submit", *options)
    assert refused.exit_code == 2
    assert "--mode global or --mode patch" in refused.stderr
    assert server.runs == {}
    assert ctbasis("submit", *options, "--mode", "patch").exit_code == 0


def test_a_package_for_one_node_volumes_is_compiled_and_submitted(server: KfpStandIn, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    made = ctbasis("compile", "--out", mine, "--access-mode", "ReadWriteOnce", "--storage-class", "fast")
    assert made.exit_code == 0, made.output
    store = ("--store", "s3://scratch/ct")
    done = ctbasis("submit", CT, "--host", server.url, "--no-wait", "--package", mine, *store)
    assert done.exit_code == 0, done.output
    (run,) = server.runs.values()
    assert run.arguments["store"] == "s3://scratch/ct"
    workspace = run.package["platform_spec"]["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    assert workspace["kubernetes"]["pvcSpecPatch"] == {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}


def test_submit_runs_the_steps_in_the_image_of_a_registry_of_ones_own(server: KfpStandIn) -> None:
    image = f"registry.example.com:5000/lab/steps@sha256:{'0' * 64}"
    options = ("--steps-image", image, "--pull-secret", "one", "--pull-secret", "two", "--pull-policy", "IfNotPresent")
    done = ctbasis("submit", CT, "--host", server.url, "--no-wait", *options)
    assert done.exit_code == 0, done.output
    (run,) = server.runs.values()
    executors = run.package["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {image}
    for one in run.package["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert [secret["secretName"] for secret in one["imagePullSecret"]] == ["one", "two"]
        assert one["imagePullPolicy"] == "IfNotPresent"


def test_a_cohort_is_submitted_by_its_own_package_and_the_exit_code_tells_that_series_failed(
    server: KfpStandIn,
) -> None:
    server.metrics = {"done": 9.0, "unchanged": 1.0, "failed": 2.0, "set aside": 0.0, "not run": 0.0}
    done = ctbasis("submit", CT, "--host", server.url, "--cohort", "s3://results/lung", "--where", "slices > 40")
    assert done.exit_code == 3, done.output
    assert done.stdout.splitlines()[-1] == "s3://results/lung: 9 done, 1 unchanged, 2 failed; see summary.html"
    (run,) = server.runs.values()
    assert run.package["pipeline_spec"]["pipelineInfo"]["name"] == "ctbasis-cohort"
    assert (run.arguments["out"], run.arguments["where"]) == ("s3://results/lung", "slices > 40")
    assert not {"truth", "store"} & set(run.arguments)
    server.metrics = {"done": 12.0}
    assert ctbasis("submit", CT, "--host", server.url, "--cohort", "s3://results/lung").exit_code == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--where", "slices > 40"), "--where belongs to --cohort"),
        (("--again",), "--again belongs to --cohort"),
        (("--cohort", "s3://results/lung", "--store", "s3://a/b"), "--store does not go with --cohort"),
        (("--cohort", "s3://results/lung", "--new"), "--cohort goes neither"),
        (("--cohort", "/folder"), "the output names no bucket"),
        (("--cohort", "s3://results/lung", "--where", "slices >"), "slices >"),
    ],
)
def test_options_of_the_other_pipeline_are_refused_before_anything_is_sent(
    server: KfpStandIn, options: tuple[str, ...], named: str
) -> None:
    refused = ctbasis("submit", CT, "--host", server.url, "--no-wait", *options)
    assert (refused.exit_code, named in refused.stderr, server.runs) == (2, True, {}), refused.output


def test_each_pipeline_can_be_compiled_for_a_cluster(tmp_path: Path) -> None:
    for pipeline in ("denoise", "cohort"):
        out = tmp_path / f"{pipeline}.yaml"
        made = ctbasis("compile", "--out", out, "--pipeline", pipeline, "--size", "small", "--workspace-size", "5Gi")
        assert made.exit_code == 0, made.output
        assert f"name: ctbasis-{pipeline}\n" in out.read_text()
        assert "size: 5Gi" in out.read_text()
    made = ctbasis("compile", "--out", out, "--pipeline", "cohort", "--parallelism", "8")
    assert made.exit_code == 0, made.output
    assert "parallelismLimit: 8\n" in out.read_text()
    refused = ctbasis("compile", "--out", out, "--parallelism", "8")
    assert (refused.exit_code, "the package has no loop" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    "options",
    [
        ("--pipeline", "cohort"),
        ("--check", "--out", "x.yaml"),
        ("--check", "--workspace-size", "5Gi"),
        ("--access-mode", "ReadWriteOnce"),
        ("--steps-image", "a:1"),
    ],
)
def test_compiling_with_another_workspace_never_changes_the_committed_package(options: tuple[str, ...]) -> None:
    assert ctbasis("compile", *options).exit_code == 2


def test_no_option_takes_a_token_and_the_help_names_its_variable() -> None:
    for page in ("--help", "--help-all"):
        text = ctbasis("submit", page).output
        assert "--token" not in text
        assert "CTBASIS_KFP_TOKEN" in text
        assert "CTBASIS_KFP_HOST" in text


def test_with_no_wait_submit_prints_the_address_of_the_run_and_sends_no_more_requests(server: KfpStandIn) -> None:
    result = ctbasis("submit", CT, "--host", server.url, "--no-wait")
    (run,) = server.runs.values()
    assert (result.exit_code, result.stdout) == (0, f"{server.url}/#/runs/details/{run.run_id}\n")
    assert run.polls == 0


def test_an_upload_needs_no_source_and_starts_no_run(server: KfpStandIn) -> None:
    result = ctbasis("submit", "--upload-only", "--host", server.url)
    assert result.exit_code == 0, result.output
    (pipeline_id,) = server.pipelines
    assert f"/#/pipelines/details/{pipeline_id}/version/" in result.stdout
    assert server.runs == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--host", "http://localhost"], "Missing argument 'SOURCE'"),
        (["submit", CT], "Missing option '--host'"),
        (["submit", CT, "--host", "http://localhost", "--no-wait", "--out", "x"], "belong to a run that is waited for"),
        (["submit", CT, "--host", "http://localhost", "--upload-only", "--timeout", "5"], "that is waited for"),
        (["submit", CT, "--host", "localhost:8080"], "the host is not an http or https address"),
        (["submit", CT, "--host", "http://localhost", "--engine", "abacus"], "Invalid value for '--engine'"),
    ],
)
def test_an_impossible_submission_is_refused_with_exit_code_2(arguments: list[str], message: str) -> None:
    result = ctbasis(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_argument_out_of_bounds_starts_no_run(server: KfpStandIn) -> None:
    result = ctbasis("submit", CT, "--host", server.url, "--oversample", "-1")
    assert result.exit_code == 2
    assert "oversample is -1" in result.stderr
    assert server.runs == {}


def test_a_failed_run_and_a_timeout_end_with_exit_code_2_and_the_address_of_the_run(server: KfpStandIn) -> None:
    server.stuck = True
    late = ctbasis("submit", CT, "--host", server.url, "--timeout", "0.1")
    server.stuck, server.failing = False, "svd"
    failed = ctbasis("submit", CT, "--host", server.url)
    for result, message, run_id in zip((late, failed), ("it continues", "svd failed"), server.runs, strict=True):
        assert result.exit_code == 2
        assert message in result.stderr
        assert run_id in result.stderr


def test_ctrl_c_does_not_stop_the_run_and_prints_its_address(server: KfpStandIn, tmp_path: Path) -> None:
    server.stuck = True
    command = [sys.executable, "-c", PROGRAM, "submit", CT, "--host", server.url, "--timeout", "60"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("mode: auto chose patch")
        assert process.stderr.readline().endswith(": running\n")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    (run_id,) = server.runs
    assert f"run {run_id} continues on the server; see {server.url}/#/runs/details/{run_id}" in stderr
    assert "Traceback" not in stderr
    assert "run it again" not in stderr
    assert server.refused == []
