""".ci/e2e keeps to the time that CI has. The kit, which starts a cluster, is a folder of stand-ins for its programs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "e2e"
ABSENT_CLUSTER = "export KUBECONFIG=/nowhere/kubeconfig"
NOT_RUN = "ci: e2e was NOT run: "


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """Return a kit whose cluster does not answer, and whose programs record their names."""
    folder = tmp_path / "kit"
    folder.mkdir()
    for name in ("setup", "up", "down"):
        program(folder, name, "exit 0")
    program(folder, "env", f"echo {ABSENT_CLUSTER}")
    return folder


def program(kit: Path, name: str, command: str) -> None:
    path = kit / name
    path.write_text(f"#!/bin/sh\necho {name} >>{kit}/called\n{command}\n")
    path.chmod(0o755)


def called(kit: Path) -> list[str]:
    path = kit / "called"
    return path.read_text().split() if path.exists() else []


def run(kit: Path, *, started_minutes_ago: float, **minutes: int) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    given |= {"CLUSTER_KIT": str(kit), "CTBASIS_CI_STARTED": str(int(time.time() - 60 * started_minutes_ago))}
    given |= {f"CTBASIS_{name}_MINUTES": str(value) for name, value in ({"IMAGES": 0} | minutes).items()}
    return subprocess.run([SCRIPT], env=given, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_kit_the_tests_are_said_not_to_have_run(tmp_path: Path) -> None:
    done = run(tmp_path, started_minutes_ago=0)
    assert done.returncode == 0
    assert f"{NOT_RUN}KUBECONFIG is not set, and CLUSTER_KIT ({tmp_path}) holds no kit" in done.stderr


def test_without_time_for_the_tests_nothing_is_started(kit: Path) -> None:
    done = run(kit, started_minutes_ago=60, CI=85, E2E=40)
    assert done.returncode == 0
    assert f"{NOT_RUN}25 of the 85 minutes of CI are left, and the tests need 40" in done.stderr.replace("24", "25")
    assert not {"setup", "up"} & set(called(kit))


def test_a_kit_that_is_not_built_in_time_is_ended_and_named(kit: Path) -> None:
    program(kit, "setup", "sleep 300")
    done = run(kit, started_minutes_ago=1 - 3 / 60, CI=2, E2E=1)
    assert done.returncode == 0
    assert f"{NOT_RUN}{kit}/setup did not end" in done.stderr
    assert "up" not in called(kit)
    assert called(kit)[-1] == "down", "what may have been started is stopped"


def test_a_kit_that_fails_with_time_left_fails_ci_and_shows_why(kit: Path) -> None:
    program(kit, "setup", "echo no space left; exit 1")
    done = run(kit, started_minutes_ago=0, CI=85, E2E=40)
    assert done.returncode == 1
    assert NOT_RUN not in done.stderr
    assert "no space left" in done.stderr


@pytest.fixture
def ready_kit(kit: Path) -> Path:
    """Return a kit whose cluster answers; `make`, which runs the tests there, is a stand-in as well."""
    for name in ("build-image", "s3"):
        program(kit, name, "exit 0")
    folder = kit / "bin"
    folder.mkdir()
    program(kit, "env", f"echo export PATH={folder}:$PATH")
    (folder / "kubectl").write_text("#!/bin/sh\nexit 0\n")
    (folder / "kubectl").chmod(0o755)
    return kit


def make(kit: Path, command: str) -> None:
    path = kit / "bin" / "make"
    path.write_text(f'#!/bin/sh\necho "$CTBASIS_E2E_UNTIL $*" >>{kit}/made\n{command}\n')
    path.chmod(0o755)


def test_the_tests_start_until_a_few_minutes_before_the_end(ready_kit: Path) -> None:
    make(ready_kit, "exit 0")
    before = time.time()
    done = run(ready_kit, started_minutes_ago=20, CI=60, LAST_TEST=5)
    assert done.returncode == 0, done.stderr
    until, *arguments = (ready_kit / "made").read_text().split()
    assert arguments[0] == "e2e"
    assert float(until) == pytest.approx(before + 60 * (60 - 5 - 20), abs=5)


def test_failed_tests_are_run_once_more_and_both_runs_are_told(ready_kit: Path) -> None:
    make(ready_kit, 'case "$*" in *last-failed*) exit 0;; *) exit 2;; esac')
    done = run(ready_kit, started_minutes_ago=20)
    assert done.returncode == 0, done.stderr
    assert "run once more" in done.stderr
    assert len((ready_kit / "made").read_text().splitlines()) == 2


def test_tests_that_fail_twice_fail_ci(ready_kit: Path) -> None:
    make(ready_kit, "exit 2")
    done = run(ready_kit, started_minutes_ago=20)
    assert done.returncode == 2
    assert len((ready_kit / "made").read_text().splitlines()) == 2


def test_images_that_are_not_built_in_time_are_named(ready_kit: Path) -> None:
    make(ready_kit, "exit 0")
    program(ready_kit, "build-image", "sleep 300")
    done = run(ready_kit, started_minutes_ago=1 - 3 / 60, CI=2, E2E=1, LAST_TEST=0)
    assert done.returncode == 0
    assert f"{NOT_RUN}{ready_kit}/build-image did not end" in done.stderr
    assert not (ready_kit / "made").exists()


def test_tests_for_which_no_time_is_left_are_named_and_not_started() -> None:
    """Without a cluster each of them would fail if it were started."""
    given = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "e2e",
        "-p",
        "no:cacheprovider",
        "-q",
        "tests/e2e/test_lifecycle.py",
    ]
    done = subprocess.run(
        command,
        cwd=SCRIPT.parents[1],
        env=given | {"CTBASIS_E2E_UNTIL": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "NOT RUN: the time for tests on a cluster is over; `make e2e` runs test_lifecycle" in done.stdout
    assert "failed" not in done.stdout
