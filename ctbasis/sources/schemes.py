"""Table of URI schemes and their sources. A new kind of source is a new module and a row of this table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.sources.azure import AzureSource
from ctbasis.sources.dicomweb import DicomwebSource
from ctbasis.sources.folder import FolderSource
from ctbasis.sources.gs import GsSource
from ctbasis.sources.idc import IdcSource
from ctbasis.sources.listed import SCHEME as LISTED
from ctbasis.sources.listed import ListedSource
from ctbasis.sources.manifest import ManifestSource
from ctbasis.sources.s3 import S3Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.sources.source import Source

SCHEMES: dict[str, Callable[[str, int], Source]] = {
    "s3": S3Source,
    "gs": GsSource,
    "az": AzureSource,
    "abfs": AzureSource,
    "abfss": AzureSource,
    "https": ManifestSource,
    "http": ManifestSource,
    "dicomweb+https": DicomwebSource,
    "dicomweb+http": DicomwebSource,
    "idc": IdcSource,
    LISTED: lambda uri, connections: ListedSource(uri, connections, open_source),
    "file": FolderSource,
    "": FolderSource,
}
"""Constructor of the source for each URI scheme in lower case; a URI without a scheme is a path."""


def open_source(uri: str, connections: int) -> Source:
    """Open the source that `uri` names.

    Args:
        uri: `s3://bucket/prefix`, a path or `file:///path`. A final `/*`, as image archives write it, is ignored. A URI
            that ends in `/DICOMDIR` names the medium that the DICOMDIR indexes: the folder that contains it.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The scheme is unknown, or the source refuses the URI.
    """
    uri = uri.strip().removesuffix("*") if uri.strip().endswith("/*") else uri.strip()
    if uri.rpartition("/")[2].upper() == "DICOMDIR":
        uri = uri[: -len("DICOMDIR")] or "."
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    scheme = match[1].lower() if match else ""
    if not uri or scheme not in SCHEMES:
        # The URI is not repeated: one of another scheme may contain a password.
        raise CtbasisError(
            f"the source has the unknown URI scheme {scheme!r}" if uri else "the source is empty",
            expected=f"a folder, or one of {', '.join(f'{name}://' for name in SCHEMES if name and name != LISTED)}",
            remedy="correct the source",
        )
    return SCHEMES[scheme](uri, connections)
