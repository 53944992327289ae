"""`ctbasis view` as a process: its address, its token, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import requests

from ctbasis.web.token import TOKEN

if TYPE_CHECKING:
    from tests.viewer.conftest import Run

SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105 - an invented token


def test_the_verb_serves_until_it_is_ended_and_does_not_print_a_token_that_was_given(run: Run) -> None:
    command = [sys.executable, "-m", "ctbasis.cli", "view", run.out, "--source", run.source]
    environment = {**os.environ, TOKEN: SECRET}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.match(r"open (http://127\.0\.0\.1:[0-9]+/)#token=CTBASIS_HTTP_TOKEN, ", line)
        assert found is not None
        assert requests.get(found[1], timeout=20).headers["Content-Type"].startswith("text/html")
        answer = requests.get(f"{found[1]}series", headers={"Authorization": f"Bearer {SECRET}"}, timeout=20)
        assert answer.json()["shape"] == [12, 48, 40]
        server.send_signal(signal.SIGTERM)
        rest, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    for text in (line, rest, errors, answer.text):
        assert SECRET not in text
        assert "Made" not in text
