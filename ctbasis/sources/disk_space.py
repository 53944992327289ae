"""Free space for what is fetched and unpacked, compared with sizes before a byte is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path


def require_space(size: int, folder: Path, what: str) -> None:
    """Refuse to write `size` bytes to a volume that has fewer bytes free.

    Args:
        size: Size in bytes.
        folder: An existing folder on the volume, such as a mounted claim.
        what: What takes the space, the subject of the message.

    Raises:
        CtbasisError: The volume has too little space.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise CtbasisError(
            f"{what} takes {size:,} bytes, and the workspace has {free:,} bytes free",
            expected="a workspace with room for it",
            cause="the workspace is too small for this source, or the sizes that the source states are wrong",
            remedy="name a smaller source, free space, or enlarge the workspace (its claim, on a cluster)",
        )
