"""A node that is killed while it receives, denoises and sends loses nothing and sends nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.node import kills
from tests.node.peers import REFUSED_CONNECTIONS

if TYPE_CHECKING:
    from pathlib import Path


@REFUSED_CONNECTIONS
def test_a_node_that_is_killed_loses_nothing_and_sends_nothing_twice(tmp_path: Path) -> None:
    outcome = kills.run(3, 8, 27, tmp_path)
    assert outcome.kills == 3
    assert outcome.acknowledged == 8 * kills.SLICES
    assert (outcome.lost, outcome.undelivered, outcome.twice) == (0, 0, 0), outcome
    assert outcome.jobs.keys() == {"done"}
