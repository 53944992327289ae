"""Instances and data sets for tests of the node."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pydicom
from pynetdicom.dsutils import encode_file_meta

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.node.inbox import Inbox
    from ctbasis.node.queue import Instance


def received(inbox: Inbox, path: Path, *, sender: str = "SENDER", sop: str = "") -> Instance:
    """Give the file at `path` to an inbox as an association does, in fragments.

    Args:
        inbox: The inbox.
        path: DICOM file.
        sender: AE title of the sender.
        sop: SOPInstanceUID that the request names; empty for that of the file.
    """
    header = pydicom.dcmread(path, stop_before_pixels=True)
    meta = encode_file_meta(header.file_meta)
    data = path.read_bytes()[128 + 4 + len(meta) :]
    spool = inbox.open_spool(meta, header.file_meta.TransferSyntaxUID)
    stream = BytesIO(data)
    while fragment := stream.read(1000):
        spool.write(fragment)
    return inbox.keep(spool, sop_class=header.SOPClassUID, sop=sop or header.SOPInstanceUID, sender=sender)
