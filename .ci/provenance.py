"""Writes provenance.json of a release: which files were made from which commit, by what, and when.

The file is an in-toto statement with a predicate of SLSA 1.0. It is not signed: on GitHub, the workflow `release`
attests the same files by its own identity, and this file says what a build elsewhere was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:ctbasis:make-release:v1"
"""The type of the build: `make release` of the commit, with the external parameters as variables."""

PINS = ("uv.lock", "images/uv.txt", "images/spark/mahout/pom.xml", "images/spark/s3a/pom.xml")
"""The files that name what is downloaded: packages of Python with their hashes, and Maven's by version."""


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git(*arguments: str) -> str:
    """Return what git prints, or nothing."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def source() -> str:
    """Return the address of the repository without a password, or a name if it has none."""
    address = re.sub(r"//[^/@]*@", "//", git("remote", "get-url", "origin"))
    return f"git+{address}" if "://" in address else "git+urn:ctbasis"


def subjects(folder: Path, images: list[str]) -> list[dict[str, Any]]:
    """Return what was made: every file of the release, and every image that was pushed."""
    files = [{"name": path.name, "digest": {"sha256": sha256(path)}} for path in sorted(folder.iterdir())]
    for image in images:
        name, _, digest = image.partition("@sha256:")
        files.append({"name": name, "digest": {"sha256": digest}})
    return files


def materials(commit: str, base: str) -> list[dict[str, Any]]:
    """Return what it was made from: the commit, the files that pin the downloads, the base of the images."""
    found: list[dict[str, Any]] = [{"uri": source(), "digest": {"gitCommit": commit}}]
    found += [{"uri": f"file:{name}", "digest": {"sha256": sha256(ROOT / name)}} for name in PINS]
    if base:
        name, _, digest = base.partition("@sha256:")
        found.append({"uri": f"docker://{name}"} | ({"digest": {"sha256": digest}} if digest else {}))
    return found


def statement(given: argparse.Namespace) -> dict[str, Any]:
    """Return the statement."""
    return {
        "_type": STATEMENT,
        "subject": subjects(given.folder, given.image),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"version": given.version, "rehearsal": given.rehearsal},
                "internalParameters": {"python": platform.python_version(), "machine": platform.machine()},
                "resolvedDependencies": materials(given.commit, given.base),
            },
            "runDetails": {
                "builder": {"id": "urn:ctbasis:maintainer"},
                "metadata": {
                    "startedOn": given.started,
                    "finishedOn": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            },
        },
    }


def main() -> None:
    """Write the statement into the folder of the release."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--started", required=True)
    parser.add_argument("--base", default="", help="base image, if images were built")
    parser.add_argument("--rehearsal", action="store_true")
    parser.add_argument("--image", action="append", default=[])
    given = parser.parse_args()
    (given.folder / "provenance.json").write_text(json.dumps(statement(given), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
