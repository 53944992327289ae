"""Status codes of the storage service (PS3.4 B.2.3, PS3.7 C); DICOMweb uses the same numbers as FailureReason."""

from __future__ import annotations

from enum import IntEnum

LONGEST_COMMENT = 64
"""Characters of ErrorComment (0000,0902), VR LO."""


class Status(IntEnum):
    """What became of an instance.

    Attributes:
        SUCCESS: It is stored: written to the disk and recorded.
        DUPLICATE_INSTANCE: Another instance with its SOPInstanceUID is stored; this one is not.
        NOT_AUTHORIZED: The node does not do this for the peer.
        OUT_OF_RESOURCES: It is not stored, because the disk is full or fails. The sender may try again later.
        OTHER_CLASS: It is not stored, because the data set contradicts the request, or is no CT image.
        CANNOT_UNDERSTAND: It is not stored, because the data set cannot be read.
        CLASS_NOT_SUPPORTED: It is not stored, because it is no CT image.
        SYNTAX_NOT_SUPPORTED: It is not stored, because its transfer syntax cannot be decoded.
        PROCESSING_FAILURE: The request failed for another reason.
        NO_SUCH_INSTANCE: The instance is not stored; a report of storage commitment says so.
        CLASS_CONFLICT: The instance is stored with another SOPClassUID; a report of storage commitment says so.
    """

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_INSTANCE = 0x0111
    NO_SUCH_INSTANCE = 0x0112
    CLASS_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    OUT_OF_RESOURCES = 0xA700
    OTHER_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    SYNTAX_NOT_SUPPORTED = 0xC122


class NotStoredError(Exception):
    """An instance is not stored; `status` goes to the sender with `comment`, which holds no patient data.

    Args:
        status: Reason as a code.
        comment: Reason as text, at most LONGEST_COMMENT characters.
    """

    def __init__(self, status: Status, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment[:LONGEST_COMMENT]
