"""`make release` refuses what is no release, and provenance.json states what was made from what."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctbasis.installed import VERSION

CHECKOUT = Path(__file__).parents[2]
COMMIT = 40 * "c"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a repository of one commit with what the script reads before it builds."""
    folder = tmp_path / "clone"
    (folder / ".ci").mkdir(parents=True)
    for name in (".ci/release", "CHANGELOG.md"):
        (folder / name).write_bytes((CHECKOUT / name).read_bytes())
    (folder / ".gitignore").write_text("dist/\n")
    git(tmp_path, "init", "--quiet", "clone")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def refusal(clone: Path, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in {"REGISTRY", "REHEARSAL", "WITHOUT"}}
    command = ["bash", str(clone / ".ci" / "release"), VERSION, "false"]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.match(r"release: .*\n  expected: .*\n  likely cause: .*\n  remedy: .*\n$", done.stderr), done.stderr
    assert not list(clone.glob("dist/*"))
    assert not list(clone.glob("dist/.*"))
    return done.stderr


def test_a_checkout_that_differs_from_its_commit_is_refused(clone: Path) -> None:
    (clone / "stray.py").touch()
    assert "stray.py" in refusal(clone, REHEARSAL="1")


def test_a_commit_without_the_tag_of_the_version_is_refused(clone: Path) -> None:
    git(clone, "tag", "v9.9.9")
    said = refusal(clone, REGISTRY="registry.example.com/ctbasis")
    assert f"no tag v{VERSION}" in said
    assert "v9.9.9" in said


def test_a_release_without_a_registry_or_without_a_section_of_the_changelog_is_refused(clone: Path) -> None:
    git(clone, "tag", f"v{VERSION}")
    assert "REGISTRY is not set" in refusal(clone)
    assert "WITHOUT" in refusal(clone, REGISTRY="registry.example.com/ctbasis", WITHOUT="images")
    (clone / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\nSomething.\n\n## [0.0.1] - 2020-01-01\n\nOld.\n"
    )
    git(clone, "commit", "--quiet", "--all", "--message", "changelog")
    git(clone, "tag", "--force", f"v{VERSION}")
    assert f"nothing about {VERSION}" in refusal(clone, REGISTRY="registry.example.com/ctbasis")


def test_a_builder_that_does_not_set_the_times_of_files_is_refused() -> None:
    script = (CHECKOUT / ".ci" / "release").read_text()
    assert re.findall(r"^    (\S+)\) digest=", script, re.MULTILINE) == ["buildah", "podman"]


def test_the_statement_names_every_file_and_image_by_digest_and_what_they_were_made_from(tmp_path: Path) -> None:
    (tmp_path / "ctbasis.whl").write_bytes(b"wheel")
    image = f"registry.example.com/ctbasis/steps@sha256:{64 * 'a'}"
    command = [sys.executable, str(CHECKOUT / ".ci" / "provenance.py"), str(tmp_path), "--version", VERSION]
    base = f"docker.io/library/debian@sha256:{64 * 'b'}"
    command += ["--commit", COMMIT, "--started", "2026-01-01T00:00:00Z", "--image", image, "--base", base]
    subprocess.run(command, check=True)
    statement = json.loads((tmp_path / "provenance.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": "ctbasis.whl", "digest": {"sha256": hashlib.sha256(b"wheel").hexdigest()}},
        {"name": "registry.example.com/ctbasis/steps", "digest": {"sha256": 64 * "a"}},
    ]
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"] == {"version": VERSION, "rehearsal": False}
    by_name = {one["uri"]: one["digest"] for one in build["resolvedDependencies"]}
    lock = hashlib.sha256((CHECKOUT / "uv.lock").read_bytes()).hexdigest()
    assert by_name["file:uv.lock"] == {"sha256": lock}
    assert by_name["docker://docker.io/library/debian"] == {"sha256": 64 * "b"}
    assert {"gitCommit": COMMIT} in by_name.values()
    assert not [uri for uri in by_name if "@" in uri]


def test_the_files_that_the_workflow_attests_are_files_that_the_script_writes() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "release.yml").read_text())
    script = (CHECKOUT / ".ci" / "release").read_text()
    paths = [
        step["with"]["sbom-path"] for step in workflow["jobs"]["attest"]["steps"] if "sbom-path" in step.get("with", {})
    ]
    assert [re.sub(r"\$\{\{.*\}\}", "VERSION", path) for path in paths] == [
        "release/steps-VERSION.cdx.json",
        "release/spark-VERSION.cdx.json",
    ]
    bills = ('"cyclonedx-json=$3.cdx.json"', '"spdx-json=$3.spdx.json"', '"$out/$image-$version"')
    for written in (*bills, "SHA256SUMS", "notes.md", "images.env"):
        assert written in script
