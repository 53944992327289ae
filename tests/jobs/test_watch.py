"""A watch yields each change once, through failures of the API server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs.outage import JobStaysError
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.jobs.watch import Change, Watch
from tests.jobs.api_server_stand_in import PODS, ApiServerStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

SELECTOR = {"labelSelector": "of=mine"}


class Watched:
    """A watch that a thread reads, and its changes so far."""

    def __init__(self, server: ApiServerStandIn, timeouts: Timeouts, known: dict[str, Any] | None = None) -> None:
        self._server = server
        api = server.api_server()
        self.watch = Watch(api, PODS, SELECTOR, timeouts=timeouts, doing="watching the pods", known=known)
        self.changes: list[str] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for change in self.watch.changes():
                self.changes.append(_text(change))
        except CtbasisError as error:
            self.error = error

    def until(self, *changes: str) -> None:
        self._server.until(lambda: len(self.changes) >= len(changes) or self.error, f"changes so far: {self.changes}")
        assert self.error is None, self.error
        assert self.changes == list(changes)


def _text(change: Change) -> str:
    return f"{change.kind} {change.object['metadata']['name']} {change.object.get('at', '')}".strip()


def pod(name: str, *, at: str = "", uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or f"uid-of-{name}", "labels": {"of": "mine"}}, "at": at}


@pytest.fixture
def watched(server: ApiServerStandIn, timeouts: Timeouts) -> Iterator[Watched]:
    server.put(PODS, pod("a"))
    created = Watched(server, timeouts)
    created.until("ADDED a")
    server.until_watched(PODS)
    yield created
    created.watch.stop()
    created.thread.join(10)
    assert not created.thread.is_alive(), "a watch that is stopped ends"


def test_existing_objects_come_first_then_each_change(server: ApiServerStandIn, watched: Watched) -> None:
    server.put(PODS, pod("b"))
    server.put(PODS, pod("a", at="2"))
    server.put(PODS, {"metadata": {"name": "other", "labels": {"of": "somebody"}}})
    server.remove(PODS, "b")
    watched.until("ADDED a", "ADDED b", "MODIFIED a 2", "DELETED b")


def test_a_watch_from_a_known_object_misses_no_change_since_that_object_was_read(
    server: ApiServerStandIn, timeouts: Timeouts
) -> None:
    known = server.put(PODS, pod("a"))
    server.put(PODS, pod("a", at="2"))
    server.put(PODS, pod("a", at="3"))
    watched = Watched(server, timeouts, known)
    watched.until("MODIFIED a 2", "MODIFIED a 3")
    assert all("watch=true" in path for _, path in server.requests), "it lists nothing"
    watched.watch.stop()


def test_a_change_between_list_and_watch_is_yielded(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    server.put(PODS, pod("a"))
    server.answer("GET", "watch=true", 503, times=2)
    watched = Watched(server, timeouts)
    watched.until("ADDED a")
    server.put(PODS, pod("a", at="2"))
    watched.until("ADDED a", "MODIFIED a 2")
    watched.watch.stop()


@pytest.mark.parametrize("how", ["cut", "end_streams"])
def test_a_broken_watch_continues_where_it_ended(server: ApiServerStandIn, watched: Watched, how: str) -> None:
    for round_ in range(3):
        server.put(PODS, pod("a", at=f"{2 * round_}"))
        watched.until(*watched.changes[:1], *(f"MODIFIED a {n}" for n in range(2 * round_ + 1)))
        getattr(server, how)()
        server.put(PODS, pod("a", at=f"{2 * round_ + 1}"))
        watched.until("ADDED a", *(f"MODIFIED a {n}" for n in range(2 * round_ + 2)))
    assert len([path for _, path in server.requests if "watch" not in path]) == 1, "it never lists again"


def test_a_bookmark_is_no_change_but_a_place_to_continue_from(server: ApiServerStandIn, watched: Watched) -> None:
    for _ in range(3):
        server.bookmark(PODS)
    server.put(PODS, pod("a", at="2"))
    watched.until("ADDED a", "MODIFIED a 2")
    server.bookmark(PODS)
    version = server.get(PODS, "a")["metadata"]["resourceVersion"]  # type: ignore[index]
    server.until(lambda: server._version > int(version))
    # The next change has arrived, so the bookmark before it has too.
    server.put(PODS, pod("b"))
    server.bookmark(PODS)
    server.put(PODS, pod("b", at="2"))
    watched.until("ADDED a", "MODIFIED a 2", "ADDED b", "MODIFIED b 2")
    server.forget()  # a watch that ignored bookmarks would have to list again now
    server.end_streams()
    server.until_watched(PODS, 2)
    server.put(PODS, pod("b", at="3"))
    watched.until("ADDED a", "MODIFIED a 2", "ADDED b", "MODIFIED b 2", "MODIFIED b 3")
    assert len([path for _, path in server.requests if "watch" not in path]) == 1


@pytest.mark.parametrize("by", ["event", "status"])
def test_after_lost_history_a_list_gives_each_difference_once(
    server: ApiServerStandIn, watched: Watched, by: str
) -> None:
    server.put(PODS, pod("gone"))
    server.put(PODS, pod("same"))
    watched.until("ADDED a", "ADDED gone", "ADDED same")
    server.gone_by = by
    server.stop()
    server.put(PODS, pod("a", at="2"))
    server.put(PODS, pod("a", at="3"))
    server.remove(PODS, "gone")
    server.put(PODS, pod("new"))
    server.forget()
    server.start()
    server.until(lambda: len(watched.changes) >= 6)
    assert watched.changes[:3] == ["ADDED a", "ADDED gone", "ADDED same"]
    assert sorted(watched.changes[3:]) == ["ADDED new", "DELETED gone", "MODIFIED a 3"]


def test_a_server_restored_from_an_older_backup_is_listed_again(server: ApiServerStandIn, watched: Watched) -> None:
    for at in range(5):
        server.put(PODS, pod("a", at=str(at)))
    watched.until("ADDED a", *(f"MODIFIED a {at}" for at in range(5)))
    server.stop()
    server._version, server._events = 50, []
    server.put(PODS, pod("a", at="restored"))
    server.start()
    server.until(lambda: watched.changes[-1] == "MODIFIED a restored")


def test_a_replaced_object_of_the_same_name_is_a_deletion_and_an_addition(
    server: ApiServerStandIn, watched: Watched
) -> None:
    server.stop()
    server.remove(PODS, "a")
    server.put(PODS, pod("a", uid="another"))
    server.forget()
    server.start()
    watched.until("ADDED a", "DELETED a", "ADDED a")


def test_a_refusal_of_a_server_that_restarts_is_not_final(server: ApiServerStandIn, watched: Watched) -> None:
    server.stop()
    server.answer("GET", "watch=true", 403, 'User "x" cannot watch', times=2)
    server.answer("GET", "watch=true", 404, "404 page not found", times=1, plain=True)
    server.start()
    server.put(PODS, pod("a", at="2"))
    watched.until("ADDED a", "MODIFIED a 2")


def test_a_missing_right_is_an_error_at_once(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    server.answer("GET", "watch=true", 403, 'User "x" cannot watch resource "pods"', times=99)
    watched = Watched(server, timeouts)
    server.until(lambda: watched.error)
    assert "watching the pods was refused: 403 Forbidden" in str(watched.error)
    assert "the RoleBinding ctbasis-launch" in str(watched.error)
    assert len(server.watches(PODS)) == 1


def test_silence_is_a_broken_watch_but_no_outage(server: ApiServerStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    server.put(PODS, pod("a"))
    # If silence were an outage, its timeout would end soon.
    watched = Watched(server, Timeouts(api_server=2, silence=1.2))
    server.until_watched(PODS, 4)
    server.put(PODS, pod("a", at="2"))
    watched.until("ADDED a", "MODIFIED a 2")
    assert "away" not in capsys.readouterr().err
    watched.watch.stop()


def test_a_long_outage_ends_the_watch_and_leaves_the_application(server: ApiServerStandIn) -> None:
    server.put(PODS, pod("a"))
    watched = Watched(server, Timeouts(api_server=0.5))
    watched.until("ADDED a")
    server.stop()
    server.until(lambda: watched.error)
    assert isinstance(watched.error, JobStaysError)
    assert "the API server was unavailable for" in str(watched.error)


def test_a_watch_that_always_ends_at_once_is_resumed_after_waits(server: ApiServerStandIn, watched: Watched) -> None:
    before = len(server.requests)
    for _ in range(100):
        server.end_streams()
        threading.Event().wait(0.01)
    assert len(server.requests) - before < 10
    server.put(PODS, pod("a", at="2"))
    watched.until("ADDED a", "MODIFIED a 2")


def test_no_request_is_sent_while_nothing_changes(server: ApiServerStandIn, watched: Watched) -> None:
    before = len(server.requests)
    threading.Event().wait(1.5)
    assert len(server.requests) == before
    assert watched.changes == ["ADDED a"]
