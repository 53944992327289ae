"""Which class serves which URI scheme: another image repository is one new file and one row here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.sources.folder import Folder
from ctbasis.sources.s3 import S3

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.sources.source import Source

SCHEMES: dict[str, Callable[[str, int], Source]] = {
    "s3": S3,
    "file": Folder,
    "": Folder,
}
"""A source's constructor by its scheme, lower case; a URI without one is a path."""


def open_source(uri: str, connections: int) -> Source:
    """Open the source that `uri` names.

    Args:
        uri: `s3://bucket/prefix`, a path or `file:///path`; archives write `/*` at its end, which means the same. One
            that ends in `/DICOMDIR` means the medium that this is the index of: all that lies beside it.
        connections: How many downloads run at once.

    Raises:
        CtbasisError: The scheme is unknown, or the source refuses the URI.
    """
    uri = uri.strip().removesuffix("*") if uri.strip().endswith("/*") else uri.strip()
    if uri.rpartition("/")[2].upper() == "DICOMDIR":
        uri = uri[: -len("DICOMDIR")] or "."
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    scheme = found[1].lower() if found else ""
    if not uri or scheme not in SCHEMES:
        # Not repeated whole: a URI of another scheme may carry a password.
        raise CtbasisError(
            f"a source of scheme {scheme!r} is unknown" if uri else "the source is empty",
            expected=f"a folder, or one of {', '.join(f'{name}://' for name in SCHEMES if name)}",
        )
    return SCHEMES[scheme](uri, connections)
