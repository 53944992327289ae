"""Sending the instances of a folder to another node or to a DICOMweb server, as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.node.channel import channel
from ctbasis.node.inbox import UID
from ctbasis.node.part10 import MOST_META_BYTES, FileStart
from ctbasis.node.status import NotStoredError
from ctbasis.progress import progress

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.node.calling import Caller
    from ctbasis.node.peers import Peer, WebPeer

MOST_CONTEXTS = 100
"""Pairs of SOP class and transfer syntax of one association; DICOM allows 128 presentation contexts (PS3.8 9.3.2)."""


@dataclass(frozen=True)
class Pushed:
    """What was sent.

    Attributes:
        instances: Number of instances that the destination has stored.
        others: Number of files that are no DICOM files.
    """

    instances: int
    others: int


def push(source: Path, destination: Peer | WebPeer, *, caller: Caller) -> Pushed:
    """Send every DICOM file of a folder and its subfolders.

    A destination stores an instance that it has already once, so that a push that failed can be repeated.

    Args:
        source: The folder, or a single file.
        destination: Where the instances go.
        caller: This side.

    Raises:
        UnreachableError: The destination does not answer, or rejects the association.
        CtbasisError: The source holds no DICOM file, or the destination refused instances or broke off.
    """
    instances, others = _instances(source)
    pairs = sorted(set(instances.values()))
    refused: Counter[str] = Counter()
    files = progress(sorted(instances, key=instances.__getitem__), "push", unit="instance")
    sent = 0
    for offered in [pairs[first : first + MOST_CONTEXTS] for first in range(0, len(pairs), MOST_CONTEXTS)]:
        contexts = [(sop_class, (syntax,)) for sop_class, syntax in offered]
        with channel(destination, caller, contexts) as opened:
            for file in islice(files, sum(pair in offered for pair in instances.values())):
                answer = opened.store(file)
                if answer.stored:
                    sent += 1
                elif answer.status is not None:
                    refused[str(answer)] += 1
                else:
                    raise CtbasisError(
                        f"{destination} has {sent} of {len(instances)} instances, then: {answer}",
                        expected="an answer for each instance",
                        cause="it takes no instances of this kind, or the connection was lost",
                        remedy="run the same command again; what it has is stored once",
                    )
    if refused:
        raise CtbasisError(
            f"{destination} refused {sum(refused.values())} of {len(instances)} instances",
            expected="that it stores every instance",
            cause="it has other instances with the same UIDs, its disk is full, or it takes no such objects",
            remedy="look the status up in PS3.4 B.2.3, or in the log of the destination",
            details=[f"{count} with {reason}" for reason, count in refused.most_common()],
        )
    return Pushed(sent, others)


def _instances(source: Path) -> tuple[dict[Path, tuple[str, str]], int]:
    """Return SOP class and transfer syntax of each DICOM file, and the number of other files."""
    found, others = {}, 0
    try:
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        for path in files:
            with path.open("rb") as stream:
                start = _start(stream.read(2 * MOST_META_BYTES))
            if start is None:
                others += 1
            else:
                found[path] = (start.sop_class, start.syntax)
    except OSError as error:
        raise CtbasisError(
            f"{source} cannot be read ({error.strerror})", expected="a folder of DICOM files that this user may read"
        ) from error
    if not found:
        raise CtbasisError(
            f"{source} holds no DICOM file among {others} files",
            expected="DICOM files, such as those of a result of `ctbasis run`",
            remedy="name the folder of the series",
        )
    return found, others


def _start(content: bytes) -> FileStart | None:
    """Return the begin of a DICOM file; None of another file."""
    try:
        start = FileStart.parse(content)
    except NotStoredError:
        return None
    return start if start is not None and all(map(UID.fullmatch, (start.sop_class, start.sop, start.syntax))) else None
