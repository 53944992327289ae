"""The inside of a process that lives on (`ctbasis.worker_process`): it reads requests and writes answers, a line each.

The process ends at once when its standard input ends, also in the middle of a request: the program that started it is
gone, and its next process must not find another that writes the same files.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Report = Callable[[str], None]

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = 0, 1, 2

READ_BYTES = 1 << 16


def answer_requests(answer: Callable[[dict[str, Any], Report], Mapping[str, Any]]) -> NoReturn:
    """Answer requests until standard input ends.

    Args:
        answer: Returns the answer to a request, and calls the function that it is given with each stage of the work. An
            exception ends the process.
    """
    # Ctrl-C reaches every process of the terminal; the program that started this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests: queue.Queue[bytes] = queue.Queue()
    # Processes that are forked later close sys.stdin, and would wait for ever for a thread that reads it.
    pipe = os.dup(STANDARD_INPUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STANDARD_INPUT)
    threading.Thread(target=_listen, args=(pipe, requests), daemon=True).start()
    with os.fdopen(os.dup(STANDARD_OUTPUT), "w", encoding="utf-8") as answers:
        # Whatever else writes to standard output would be taken for an answer.
        os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)

        def say_line(content: Mapping[str, Any]) -> None:
            answers.write(json.dumps(dict(content)) + "\n")
            answers.flush()

        while True:
            request = json.loads(requests.get())
            say_line(answer(request, lambda stage: say_line({"stage": stage})))


def _listen(pipe: int, requests: queue.Queue[bytes]) -> None:
    """Pass lines on; when the pipe ends, end this process and those that it forked."""
    rest = b""
    while content := os.read(pipe, READ_BYTES):
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            requests.put(line)
    # The program that started this one is gone. The next process removes what this one leaves behind
    # (ctbasis/storage/working_folder.py).
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
