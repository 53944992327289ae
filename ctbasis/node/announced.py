"""Lists of the instances of a series, by which a series is complete before its study has been quiet.

A scanner that has ended a step sends a Modality Performed Procedure Step (MPPS, PS3.4 F.7), and an archive sends an
Instance Availability Notification (PS3.4 R). Both name series and their instances. Neither states that the node has
these instances, so that a series counts as complete when all instances of its list have arrived. A list that is wrong
or lost does no harm: the quiet time holds without it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from ctbasis.node.queue import Queue

Lists: TypeAlias = "dict[str, frozenset[str]]"
"""SOPInstanceUIDs by SeriesInstanceUID."""

MOST_SERIES = 1000
"""Series whose lists are kept; the oldest list is dropped for a new one."""

MOST_INSTANCES = 100_000
"""Instances of a list at most; a longer list is not used."""

COMPLETED = "COMPLETED"
"""Performed Procedure Step Status of a step that has ended as planned."""


class Announced:
    """The lists that were received and whose instances have not all arrived. A node that starts anew has none."""

    def __init__(self) -> None:
        self._lists: Lists = {}
        self._lock = threading.Lock()

    def add(self, lists: Lists) -> None:
        """Keep the list of each series; it replaces an earlier one."""
        with self._lock:
            for series, instances in lists.items():
                self._lists.pop(series, None)
                if 0 < len(instances) <= MOST_INSTANCES:
                    self._lists[series] = instances
            while len(self._lists) > MOST_SERIES:
                del self._lists[next(iter(self._lists))]

    def take_complete(self, queue: Queue) -> list[tuple[str, str]]:
        """Return study and series of each list whose instances have all arrived; the list is dropped."""
        with self._lock:
            lists = dict(self._lists)
        # One query for all lists: it is asked several times a second, and lists of series that never come stay.
        counts = queue.instance_counts(lists) if lists else {}
        complete = []
        for series, count in counts.items():
            instances = lists[series]
            study = queue.study_with(series, instances) if count >= len(instances) else None
            if study is not None:
                complete.append((study, series))
                with self._lock:
                    if self._lists.get(series) == instances:
                        del self._lists[series]
        return complete


def lists_of_step(step: Dataset) -> Lists:
    """Return the lists of an MPPS whose step is completed; empty for one that goes on or was discontinued.

    Args:
        step: Modification List of the N-SET, or Attribute List of the N-CREATE.

    Raises:
        AttributeError: The data set has no status, or a series or an instance without a UID.
    """
    if step.PerformedProcedureStepStatus != COMPLETED:
        return {}
    return {
        str(series.SeriesInstanceUID): _instances(
            *series.get("ReferencedImageSequence", ()),
            *series.get("ReferencedNonImageCompositeSOPInstanceSequence", ()),
        )
        for series in step.get("PerformedSeriesSequence", ())
    }


def lists_of_notification(notification: Dataset) -> Lists:
    """Return the lists of an Instance Availability Notification.

    Args:
        notification: Attribute List of the N-CREATE.

    Raises:
        AttributeError: The data set has no list, or a series or an instance without a UID.
    """
    return {
        str(series.SeriesInstanceUID): _instances(*series.ReferencedSOPSequence)
        for series in notification.ReferencedSeriesSequence
    }


def _instances(*references: Any) -> frozenset[str]:
    return frozenset(str(one.ReferencedSOPInstanceUID) for one in references)
