"""Run the compiled package on this machine through kfp.local, and bring its outputs home."""

from __future__ import annotations

import io
import re
import shutil
import signal
import sys
import time
import uuid
import warnings
from collections import deque
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import psutil

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.kubeflow.package import PACKAGE
from ctbasis.parameters import MODE, check
from ctbasis.patch.bases import kind_at
from ctbasis.storage import stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OUTPUTS = {
    "denoised": "reconstruct/denoised",
    "basis-images": "reconstruct/basis_images",
    "noise": "reconstruct/noise",
    "basis": "svd/basis",
    "figure1.png": "report/figure1",
    "report.html": "report/page",
    "metrics.json": "report/metrics",
    "qc.json": "matrix/qc",
}
"""What a run's folder holds, and the task and artifact that it comes from."""

ONLY_OF = {"basis-images": "global", "noise": "patch"}
"""Outputs that one mode alone has."""

STOP_SECONDS = 10.0
"""How long a step's processes have to end by themselves."""


@dataclass(frozen=True)
class LocalRun:
    """A run that succeeded.

    Attributes:
        out: Its folder.
        seconds: Of the whole run.
        steps: Seconds of each step, by name, in order.
    """

    out: Path
    seconds: float
    steps: dict[str, float]

    @property
    def overhead(self) -> float:
        """Seconds that no step accounts for: loading and dispatching the pipeline and collecting its outputs."""
        return self.seconds - sum(self.steps.values())


def run(arguments: Mapping[str, Any], *, out: Path, package: Path = PACKAGE) -> LocalRun:
    """Run `package` with `arguments` and leave `OUTPUTS` in `out`, all of them or none.

    Args:
        arguments: Pipeline parameters by name; what is left out has its default.
        out: The folder to make. A former run's folder there is replaced once the new one is whole.
        package: The compiled pipeline.

    Raises:
        CtbasisError: An argument is out of bounds, `out` holds something else, or a step failed.
    """
    check(dict(arguments))
    arguments = dict(arguments)
    if basis := str(arguments.get("basis", "")):
        _check_kind(basis, str(arguments.get("mode", MODE.default)))
    if store := str(arguments.get("store", "")):
        # A folder that no other run has, so that it can be removed whatever becomes of this one.
        store = arguments["store"] = stores.run_folder("", store, f"local-{uuid.uuid4().hex}")
    out = out.resolve()
    _refuse_foreign(out)
    start = time.monotonic()
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with _stopped_whole():
            steps = _execute(package, arguments, partial)
        _collect(partial / "artifacts", partial / "outputs", str(arguments.get("mode", MODE.default)))
        _replace(out, partial / "outputs")
    except OSError as error:
        raise CtbasisError(
            f"{out} cannot be written ({error.strerror or error})", remedy="free some space or choose another --out"
        ) from error
    except KeyboardInterrupt:
        # The pipeline's own cleanup had no time to run.
        _end_children()
        if store:
            with suppress(CtbasisError):
                stores.delete(store)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return LocalRun(out=out, seconds=time.monotonic() - start, steps=steps)


def _check_kind(basis: str, mode: str) -> None:
    """Refuse a basis that is not there or of another mode before anything is fetched.

    Raises:
        CtbasisError: It is.
    """
    kind = kind_at(basis)
    if kind != mode:
        raise CtbasisError(
            f"the basis at {basis} is of a run in {kind} mode, and mode is {mode}",
            expected="both alike",
            remedy=f"add --mode {kind}, or use `ctbasis denoise`, which tells by itself",
        )


@contextmanager
def _stopped_whole() -> Iterator[None]:
    """End the steps' processes with this one where it alone is told to stop, as a shell ends them all on Ctrl-C."""

    def stop(_signum: int, _frame: object) -> None:
        _end_children()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_children() -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=STOP_SECONDS)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise CtbasisError(f"{out} is a file", expected="a folder to make or one that ctbasis made")
    if out.is_dir() and any(out.iterdir()) and not (out / "metrics.json").exists():
        raise CtbasisError(
            f"{out} is not empty and no run of ctbasis made it",
            expected="a new folder, an empty one, or a former run's",
            remedy="choose another --out",
        )


def _execute(package: Path, arguments: dict[str, Any], partial: Path) -> dict[str, float]:
    from kfp import components, local

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(partial / "artifacts"),
        # kfp removes this folder when the run ends; artifacts lie beside it and survive.
        workspace_root=str(partial / "workspace"),
    )
    pipeline = components.load_component_from_file(str(package))
    for component in pipeline.component_spec.implementation.graph.components.values():
        for task in component.dag.tasks.values():
            # Retries are for pods that are lost. Here they would only say three times that the input is refused.
            task.ClearField("retry_policy")
    log = StepLog(sys.stdout)
    with warnings.catch_warnings():
        # The subprocess runner wants `python` in an image's name; the steps run in this very environment.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
        # Requests, limits and Secrets are a cluster's; here the machine and the caller's environment serve.
        warnings.filterwarnings("ignore", message=r"(?s).*have no effect in the current local runner")
        try:
            with redirect_stdout(log):
                pipeline(**arguments)
        except RuntimeError as error:
            raise CtbasisError(log.refusal or f"{error}\n{log.end}") from error
        finally:
            log.close()
    return log.steps


def _collect(artifacts: Path, outputs: Path, mode: str) -> None:
    outputs.mkdir()
    for name, artifact in OUTPUTS.items():
        if ONLY_OF.get(name, mode) != mode:
            continue
        found = list(artifacts.glob(f"*/{artifact}"))
        if len(found) != 1:
            raise CtbasisError(f"the run left {len(found)} artifacts {artifact}", expected="one")
        found[0].replace(outputs / name)


def _replace(out: Path, whole: Path) -> None:
    """Put the folder `whole` at `out`; a former run's is moved aside first, and back should that fail."""
    former = whole.with_name("former")
    if out.exists():
        out.replace(former)
    try:
        whole.replace(out)
    except OSError:
        if former.exists():
            former.replace(out)
        raise


@dataclass
class StepLog(io.TextIOBase):
    """What kfp.local prints, made readable: one line as a step starts and ends, its own lines indented between.

    kfp.local writes each step's output and its own messages to standard output; the executor's messages and the JSON
    of its input say nothing to a user and are dropped.
    """

    terminal: TextIO
    steps: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=2000)
        self._pending = ""
        self._in_executor_input = False
        self._in_outputs = False
        self._failed = ""
        self._task = ""
        self._started = 0.0

    @property
    def refusal(self) -> str:
        """The text with which a step refused its input, empty if none did."""
        text = error_in_log(self._lines)
        return f"{self._failed}: {text}" if text and self._failed else text

    @property
    def end(self) -> str:
        """The last lines of all."""
        return "\n".join(list(self._lines)[-30:])

    def writable(self) -> bool:
        """Be a text stream that is written to."""
        return True

    def write(self, text: str) -> int:
        """Take what kfp prints, a line at a time."""
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._line(re.sub(r"\x1b\[\d+m", "", line.rstrip()))
        return len(text)

    def _line(self, line: str) -> None:
        if self._in_executor_input:
            self._in_executor_input = line not in {"}", "    }"}
            return
        if "INFO]: Got executor_input:" in line:
            self._in_executor_input = True
            return
        if "[KFP Executor" in line or not line.strip() or set(line) == {"-"}:
            return
        if re.match(r"\d\d:\d\d:\d\d\.\d+ - [A-Z]+ - ", line):
            self._kfp_message(line.split(" - ", 2)[2])
            return
        if self._in_outputs:
            return
        self._lines.append(line.strip())
        self._say(f"  {line.strip()}")

    def _kfp_message(self, message: str) -> None:
        # Outputs are listed over many lines, up to the next message.
        self._in_outputs = message.endswith(" outputs:")
        if match := re.match(r"Executing task '(.+)'", message):
            self._task, self._started = match[1], time.monotonic()
            self._say(f"{self._task} ...")
        elif match := re.match(r"Task '(.+)' finished with status (\w+)", message):
            self.steps[match[1]] = self.steps.get(match[1], 0.0) + time.monotonic() - self._started
            self._say(f"{match[1]} {match[2].lower()}, {time.monotonic() - self._started:.1f} s")
            if match[2] != "SUCCESS":
                self._failed = match[1]
        elif "retry" in message.lower():
            self._say(message)

    def _say(self, line: str) -> None:
        self.terminal.write(line + "\n")
        self.terminal.flush()
