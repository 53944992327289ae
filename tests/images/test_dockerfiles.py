"""Rules for the Dockerfiles; tests/e2e/test_images.py tests the built images."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from ctbasis.cli import VERBS

ROOT = Path(__file__).parents[2]
MAP_MANIFESTS = ("app.json", "pkg.json")
DOCKERFILES = sorted((ROOT / "images").glob("*/Dockerfile"))


def instructions(file: Path) -> list[str]:
    """Return a Dockerfile's instructions, each on one line."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    return [" ".join(line.split()) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def makefile() -> list[str]:
    return [line.strip() for line in (ROOT / "Makefile").read_text().splitlines()]


@pytest.fixture(params=DOCKERFILES, ids=lambda file: file.parent.name)
def dockerfile(request: pytest.FixtureRequest) -> list[str]:
    return instructions(request.param)


def test_there_is_one_dockerfile_for_each_image() -> None:
    assert [file.parent.name for file in DOCKERFILES] == ["ray", "spark", "steps"]


def test_every_stage_uses_the_base_image_that_is_pinned_by_digest(dockerfile: list[str]) -> None:
    assert re.fullmatch(r"ARG BASE=docker\.io/library/debian@sha256:[0-9a-f]{64}", dockerfile[0])
    assert {re.sub(" AS .*", "", line) for line in dockerfile if line.startswith("FROM")} == {"FROM ${BASE}"}


def test_every_debian_package_has_a_version(dockerfile: list[str]) -> None:
    commands = [part for line in dockerfile if line.startswith("RUN") for part in line.split("&&")]
    installed = [part.split("--no-install-recommends", 1)[1].split() for part in commands if "apt-get install" in part]
    assert installed
    assert [package for packages in installed for package in packages if "=" not in package] == []


def test_the_last_stage_has_no_compilers(dockerfile: list[str]) -> None:
    last = max(index for index, line in enumerate(dockerfile) if line.startswith("FROM"))
    kept = " ".join(dockerfile[last:])
    assert not re.search(r"jdk|maven|mvn |venv|\bpip\b|binutils|gcc|-dev\b", kept)


def test_the_user_is_numeric_so_that_kubernetes_can_check_that_it_is_not_root(dockerfile: list[str]) -> None:
    assert [line for line in dockerfile if line.startswith("USER")] == ["USER 185"]


def test_an_image_has_the_metadata_of_an_installed_package(dockerfile: list[str]) -> None:
    (made,) = [line for line in dockerfile if line.startswith("RUN") and "dist-info/METADATA" in line]
    assert "ctbasis-${VERSION}.dist-info" in made
    assert "Name: ctbasis" in made


def test_nothing_is_downloaded_by_url_and_no_variable_is_a_secret(dockerfile: list[str]) -> None:
    assert not [line for line in dockerfile if line.startswith("ADD") or re.search(r"\b(curl|wget)\b(?!=)", line)]
    named = [line for line in dockerfile if line.startswith(("ARG", "ENV"))]
    assert not [line for line in named if re.search(r"(?i)secret|token|password|_key", line)]


def test_every_python_package_is_installed_by_hash(dockerfile: list[str]) -> None:
    commands = [part for line in [*dockerfile, *makefile()] for part in line.split("&&")]
    installing = [part for part in commands if re.search(r"\bpip install\b", part)]
    assert len(installing) >= 3
    assert [part for part in installing if "--require-hashes" not in part] == []


def test_an_image_has_no_package_of_a_default_group(dockerfile: list[str]) -> None:
    exports = [line for line in dockerfile if "uv export" in line]
    assert exports
    # `--no-dev` would leave the group of the documentation in.
    assert [line for line in exports if "--no-default-groups" not in line] == []


def test_uv_has_one_version_and_the_hashes_of_its_wheels() -> None:
    text = (ROOT / "images" / "uv.txt").read_text()
    (version,) = re.findall(r"^uv==([\d.]+) ", text, re.MULTILINE)
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) > 10
    assert re.findall(rf"uv.{{0,3}}{re.escape(version)}", (ROOT / "Makefile").read_text()) == []


def test_the_manifests_of_a_monai_application_package_are_those_of_the_image() -> None:
    app, package = (json.loads((ROOT / "images" / "steps" / "map" / name).read_text()) for name in MAP_MANIFESTS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert app["version"] == package["version"] == project["version"]
    lines = instructions(ROOT / "images" / "steps" / "Dockerfile")
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD")]
    assert app["command"].split() == command
    assert command[-1] in VERBS
    (variables,) = [line for line in lines if line.startswith("ENV") and "HOLOSCAN" in line]
    for name in ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH", "HOLOSCAN_MODEL_PATH"):
        assert f"{name}={app['environment'][name].rstrip('/')} " in f"{variables} "
    assert package["modelRoot"] == app["environment"]["HOLOSCAN_MODEL_PATH"]
    # Fields that the specification requires.
    assert {"command", "input", "output", "type"} <= set(app)
    assert {"applicationRoot"} <= set(package)
    assert app["type"] in {"application", "service"}
    assert "formats" in app["input"]
    assert "format" in app["output"]


def test_the_build_context_contains_exactly_the_copied_files() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for file in DOCKERFILES
        for line in instructions(file)
        if line.startswith("COPY") and "--from" not in line
        for source in re.sub(r"^COPY (--\S+ )*", "", line).split()[:-1]
    }
    assert allowed == copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
