"""The wheel: what it holds, and that every verb works in an environment where it alone is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ctbasis.installed import IMAGE_ROOT, LAYOUT, VERSION, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[1]
JAR = ROOT / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"
JARS_IN_WHEEL = "ctbasis/data/jars"

KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "JAVA_HOME", "LANG")
"""Environment variables that a verb gets; PYTHONPATH and this environment's own are not among them."""

WHEEL_VARIABLE = "CTBASIS_TEST_WHEEL"

RUN_OUTPUTS = {"denoised", "basis-images", "basis", "figure1.png", "report.html", "metrics.json", "qc.json"}


def outputs(folder: Path) -> set[str]:
    """Return the names in an output folder, without hidden files."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def clean_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}


def uv(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the uv that `make setup` used, first from its cache alone, then with the package index."""
    own = ROOT / ".cache" / "uv" / "bin" / "uv"
    program = str(own) if own.exists() else shutil.which("uv")
    assert program is not None, "uv is missing: run `make setup`"
    # Proxies and certificates stay, because an index may need them; what points Python at this environment goes.
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    command = [program, *map(str, arguments)]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = run("--offline")
    return run() if done.returncode != 0 and re.search("offline|disabled", done.stderr) else done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that `uv build` makes: it builds the sdist from the checkout, and the wheel from the sdist.

    `make release` names the wheel that it has built in CTBASIS_TEST_WHEEL.
    """
    if WHEEL_VARIABLE in os.environ:
        return Path(os.environ[WHEEL_VARIABLE])
    assert JAR.exists(), "the Mahout jar is missing: run `make setup`"
    folder = tmp_path_factory.mktemp("dist")
    done = uv("build", "--out-dir", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / f"ctbasis-{VERSION}.tar.gz").exists()
    return folder / f"ctbasis-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    """Return the wheel's files, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the wheel and its locked dependencies, and without any extra."""
    folder = tmp_path_factory.mktemp("installed")
    environment, locked = folder / "venv", folder / "locked.txt"
    python = environment / "bin" / "python"
    for arguments in (
        ("venv", "--python", sys.executable, environment),
        ("export", "--frozen", "--no-default-groups", "--no-emit-project", "--output-file", locked),
        ("pip", "install", "--python", python, "--no-deps", "--require-hashes", "--requirement", locked),
        ("pip", "install", "--python", python, "--no-deps", wheel),
    ):
        done = uv(*arguments)
        assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory outside the checkout."""
    folder = tmp_path_factory.mktemp("outside")
    assert not folder.is_relative_to(ROOT)
    return folder


@pytest.fixture(scope="module")
def ctbasis(python: Path, outside: Path) -> Run:
    """Return a function that runs the installed console command outside the checkout."""

    def run(*arguments: object, expected_code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("ctbasis")), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=outside, env=clean_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == expected_code, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def finished(ctbasis: Run, series: Path, outside: Path) -> Path:
    """Return the folder of a run by engine numpy."""
    ctbasis("run", series, "--out", "by-numpy", "--engine", "numpy", "--rank", 2, "--ranks", "2")
    return outside / "by-numpy"


@pytest.mark.wheel
def test_the_wheel_installs_the_package_ctbasis_and_no_other(contents: Mapping[str, bytes]) -> None:
    assert {name.partition("/")[0] for name in contents} == {"ctbasis", f"ctbasis-{VERSION}.dist-info"}
    assert not [name for name in contents if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.wheel
def test_the_wheel_holds_the_compiled_pipelines_and_manifests_of_the_checkout(contents: Mapping[str, bytes]) -> None:
    assert contents["ctbasis/data/pipeline/denoise.yaml"] == (ROOT / "pipeline" / "denoise.yaml").read_bytes()
    assert contents["ctbasis/data/pipeline/cohort.yaml"] == (ROOT / "pipeline" / "cohort.yaml").read_bytes()
    manifests = [path for path in (ROOT / "manifests").rglob("*") if path.is_file()]
    assert manifests
    packed = {f"ctbasis/data/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in manifests}
    assert {name: data for name, data in contents.items() if name.startswith("ctbasis/data/manifests/")} == packed


@pytest.mark.wheel
def test_the_wheel_holds_the_mahout_jar_with_its_licence_and_notice(contents: Mapping[str, bytes]) -> None:
    assert contents[f"{JARS_IN_WHEEL}/{JAR.name}"] == JAR.read_bytes()
    licence = contents[f"{JARS_IN_WHEEL}/ctbasis-mahout.LICENSE.txt"].decode()
    notice = contents[f"{JARS_IN_WHEEL}/ctbasis-mahout.NOTICE.txt"].decode()
    assert "Apache License" in licence
    assert "CERN Colt Java Library" in licence
    assert "Apache Mahout" in notice
    own = contents[f"ctbasis-{VERSION}.dist-info/licenses/NOTICE"].decode()
    assert own == (ROOT / "NOTICE").read_text()
    assert re.search(r"fastutil 7\.0\.12", own), "fastutil is in the jar too"


@pytest.mark.wheel
def test_the_wheel_holds_every_file_of_the_package(contents: Mapping[str, bytes]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "ctbasis"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name for name in tracked if (ROOT / name).exists()}
    assert {name for name in contents if name.startswith("ctbasis/") and "/data/" not in name} == expected


@pytest.mark.wheel
def test_a_build_without_the_jar_is_refused_with_the_remedy_and_an_editable_install_works(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("ctbasis", "pipeline", "manifests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, checkout / name)
    for kind in ("--wheel", "--sdist"):
        refused = uv("build", kind, checkout, "--out-dir", tmp_path / "dist")
        assert refused.returncode != 0
        assert "images/spark/mahout/target/ctbasis-mahout.jar is missing" in refused.stderr
        assert "remedy: run `make setup`" in refused.stderr
    assert uv("venv", "--python", sys.executable, tmp_path / "venv").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    done = uv("pip", "install", "--python", python, "--no-deps", "--editable", checkout)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [str(python), "-c", "import importlib.metadata as m; print(m.version('ctbasis'))"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == VERSION


@pytest.mark.wheel
def test_ctbasis_comes_from_the_wheel_and_the_checkouts_other_packages_are_absent(python: Path, outside: Path) -> None:
    program = (
        "import ctbasis, importlib.util, json, sys\n"
        "names = ('pipeline', 'components', 'tests')\n"
        "print(json.dumps([ctbasis.__file__, [name for name in names if importlib.util.find_spec(name)]]))\n"
    )
    done = subprocess.run(
        [str(python), "-c", program], cwd=outside, env=clean_environment(), capture_output=True, text=True, check=True
    )
    file, found = json.loads(done.stdout)
    assert Path(file).is_relative_to(python.parents[1])
    assert found == []


@pytest.mark.wheel
def test_the_command_states_its_version(ctbasis: Run) -> None:
    assert VERSION in ctbasis("--version").stdout


@pytest.mark.wheel
def test_lint_checks_the_installed_pipeline_and_manifests(ctbasis: Run) -> None:
    files = [*(ROOT / "pipeline").glob("*.yaml"), *(ROOT / "manifests").rglob("*.yaml")]
    assert f"{len(files)} files, no fault" in ctbasis("lint").stdout


@pytest.mark.wheel
def test_compile_says_that_it_needs_the_source(ctbasis: Run) -> None:
    for arguments in ((), ("--check",), ("--out", "elsewhere.yaml")):
        refused = ctbasis("compile", *arguments, expected_code=2)
        for part in ("compiling needs the source", "expected: a checkout of ctbasis", "likely cause: ", "remedy: "):
            assert part in refused.stderr


@pytest.mark.wheel
def test_submit_describes_itself(ctbasis: Run) -> None:
    assert "--host" in ctbasis("submit", "--help").stdout


@pytest.mark.wheel
def test_a_series_is_denoised_by_numpy(finished: Path) -> None:
    assert outputs(finished) == RUN_OUTPUTS
    assert json.loads((finished / "metrics.json").read_text())["engine"] == "numpy"


@pytest.mark.wheel
@pytest.mark.java
def test_a_series_is_denoised_by_mahout_on_spark(ctbasis: Run, series: Path, outside: Path) -> None:
    ctbasis("run", series, "--out", "by-mahout", "--engine", "mahout", "--rank", 2, "--ranks", "2")
    assert outputs(outside / "by-mahout") == RUN_OUTPUTS
    assert json.loads((outside / "by-mahout" / "metrics.json").read_text())["engine"] == "mahout"


@pytest.mark.wheel
def test_a_stored_basis_denoises_another_series(ctbasis: Run, finished: Path, series: Path, outside: Path) -> None:
    ctbasis("denoise", series, "--basis", finished / "basis", "--out", "on-basis", "--engine", "numpy", "--ranks", "2")
    assert len(list((outside / "on-basis" / "denoised").glob("*.dcm"))) == len(list(series.iterdir()))


@pytest.mark.wheel
@pytest.mark.java
def test_a_series_is_factored_on_spark_and_reconstructed(ctbasis: Run, series: Path, outside: Path) -> None:
    ctbasis("factor", series, "--out", "factors", "--rank", 2)
    ctbasis("reconstruct", "factors", "--rank", 2, "--out", "reconstructed")
    assert len(list((outside / "reconstructed").glob("*.dcm"))) == len(list(series.iterdir()))


@pytest.mark.wheel
def test_a_low_dose_is_simulated_and_scored(ctbasis: Run, series: Path, outside: Path) -> None:
    ctbasis("simulate-dose", series, "--out", "low-dose", "--photons", 3000)
    scored = ctbasis("score", "--truth", series, "--image", "low-dose", "--out", "score")
    assert json.loads(scored.stdout)
    assert outputs(outside / "score") == {"score.json", "score.html"}


@pytest.mark.wheel
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("demo", "--out", "demo"), "demo"),
        (("bench", "pipeline", "--series", "{series}"), "demo"),
        (("bench", "svd", "--rows", 200, "--cols", 20, "--rank", 3, "--engine", "scikit-learn"), "demo"),
        (("bench", "svd", "--rows", 200, "--cols", 20, "--rank", 3, "--engine", "dask"), "dask"),
        (("bench", "svd", "--rows", 200, "--cols", 20, "--rank", 3, "--engine", "ctbasis-dask"), "dask"),
        (("bench", "svd", "--rows", 200, "--cols", 20, "--rank", 3, "--engine", "ray"), "ray"),
    ],
)
def test_a_verb_that_needs_an_extra_names_it(
    ctbasis: Run, series: Path, arguments: tuple[object, ...], extra: str
) -> None:
    given = [series if argument == "{series}" else argument for argument in arguments]
    refused = ctbasis(*given, expected_code=2)
    assert f"extra `{extra}`" in refused.stderr
    assert f"pip install 'ctbasis[{extra}]'" in refused.stderr


def test_every_place_that_states_the_version_states_the_same() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    for image in ("spark", "steps"):
        assert f"ARG VERSION={VERSION}" in (ROOT / "images" / image / "Dockerfile").read_text().splitlines()
    assert yaml.safe_load(LAYOUT.spark_template.read_text())["spec"]["image"] == f"ctbasis/spark:{VERSION}"
    spec = next(yaml.safe_load_all(LAYOUT.compiled_pipeline.read_text()))
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {f"ctbasis/steps:{VERSION}"}
    command = ["make", "--dry-run", "images", "BUILDER=docker"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f":{VERSION} " in shown
    assert f"--build-arg VERSION={VERSION}" in shown


def test_a_checkout_an_image_and_a_wheel_each_hold_the_files_at_their_own_place(tmp_path: Path) -> None:
    checkout, image, site = (tmp_path / name for name in ("checkout", "image", "site-packages"))
    for parent in (checkout, image, site):
        (parent / "ctbasis").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    (site / "ctbasis" / "data").mkdir()
    jar, program = f"{IMAGE_ROOT}/jars/x.jar", f"{IMAGE_ROOT}/ctbasis/spark/x.py"

    layout = Layout.around(checkout / "ctbasis", {})
    assert layout.spark_template == checkout / "manifests" / "sparkapplication.yaml"
    assert layout.local_file(jar) == checkout / "images" / "spark" / "mahout" / "target" / "x.jar"
    assert layout.local_file(program) == checkout / "ctbasis" / "spark" / "x.py"
    assert layout.python_path("/other") == os.pathsep.join([str(checkout), "/other"])

    layout = Layout.around(image / "ctbasis", {})
    assert layout.spark_template == image / "manifests" / "sparkapplication.yaml"
    assert layout.local_file(jar) == image / "jars" / "x.jar"
    assert layout.local_file(program) == image / "ctbasis" / "spark" / "x.py"
    assert layout.python_path("") == str(image)

    layout = Layout.around(site / "ctbasis", {})
    assert layout.compiled_pipeline == site / "ctbasis" / "data" / "pipeline" / "denoise.yaml"
    assert layout.spark_template == site / "ctbasis" / "data" / "manifests" / "sparkapplication.yaml"
    assert layout.local_file(jar) == site / "ctbasis" / "data" / "jars" / "x.jar"
    assert layout.local_file(program) == site / "ctbasis" / "spark" / "x.py"
    assert layout.python_path("/other") == "/other"


def test_the_folder_of_the_jar_can_be_named_by_a_variable(tmp_path: Path) -> None:
    assert Layout.around(tmp_path / "ctbasis", {"CTBASIS_JARS": "/elsewhere"}).jars == Path("/elsewhere")
