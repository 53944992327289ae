"""Fixtures for the node: its database, queue and inbox."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.node.database import Database
from ctbasis.node.inbox import Inbox
from ctbasis.node.listening import Listening
from ctbasis.node.outgoing import Outgoing
from ctbasis.node.queue import Queue
from ctbasis.node.service import Node, NodeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.node.nodes import StartNode


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.db")
    yield opened
    opened.close()


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database)


@pytest.fixture
def outgoing(database: Database) -> Outgoing:
    return Outgoing(database)


@pytest.fixture
def inbox(tmp_path: Path, queue: Queue) -> Inbox:
    return Inbox(tmp_path / "inbox", queue, least_free=0)


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Return a function that starts a node in the test's folder."""
    with ExitStack() as stack:

        def started(**settings: Any) -> Node:
            listening = Listening(title="CTBASIS", host="127.0.0.1", port=0)
            given = {"quiet": 1.0, **settings}
            return stack.enter_context(Node(NodeSettings(tmp_path / "node", listening, **given)).running())

        yield started
