"""A job whose manifest is kept as plain data, because no typed models of its kind are published."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PlainJob(Job):
    """A job with its manifest as plain data.

    Attributes:
        manifest: The manifest. Do not change it in place; the methods return new objects.
    """

    manifest: Mapping[str, Any]

    @classmethod
    def require_kind(cls, manifest: object, where: str) -> None:
        """Check kind and version of a manifest.

        Args:
            manifest: The manifest as plain data.
            where: Its place for messages, such as a path.

        Raises:
            CtbasisError: It is of another kind or version, or no manifest.
        """
        version = f"{cls.group}/{cls.version}"
        if not isinstance(manifest, dict) or (manifest.get("kind"), manifest.get("apiVersion")) != (cls.kind, version):
            raise CtbasisError(
                f"{where} is no {cls.kind} of {version}", expected=f"apiVersion: {version}, kind: {cls.kind}"
            )

    def to_manifest(self) -> dict[str, Any]:
        """Return the manifest as plain data; the caller may change it."""
        return copy.deepcopy(dict(self.manifest))
