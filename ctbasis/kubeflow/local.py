"""Runs the compiled pipeline on this machine through kfp.local, and collects its outputs in one folder."""

from __future__ import annotations

import io
import re
import signal
import sys
import tempfile
import time
import uuid
import warnings
from collections import deque
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psutil

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.kubeflow.package import PACKAGE
from ctbasis.kubeflow.watchdog import variable, watched
from ctbasis.parameters import MODE, check
from ctbasis.patch.bases import kind_at
from ctbasis.printable import say
from ctbasis.storage import stores
from ctbasis.storage.outputs import Results, list_files, replaced
from ctbasis.storage.paths import refuse_overlap
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
"""The files and folders of a run's output folder, and the task and artifact that each comes from."""

MODE_OF_OUTPUT = {"basis-images": "global", "noise": "patch"}
"""Outputs that only one mode has, and that mode."""

STOP_SECONDS = 10.0
"""Time in seconds that a step's processes get to end after SIGTERM, before they are killed."""


@dataclass(frozen=True)
class LocalRun:
    """A run that succeeded.

    Attributes:
        out: The output folder.
        seconds: The duration of the whole run in seconds.
        steps: The duration of each step in seconds, by name, in the order of the run.
    """

    out: Path
    seconds: float
    steps: dict[str, float]

    @property
    def overhead(self) -> float:
        """Seconds outside the steps: loading the pipeline, starting its steps and collecting its outputs."""
        return self.seconds - sum(self.steps.values())


def run(arguments: Mapping[str, Any], *, out: Path, package: Path = PACKAGE) -> LocalRun:
    """Run the compiled pipeline and write its outputs, which are listed in `OUTPUTS`: either all of them or none.

    Args:
        arguments: Pipeline parameters by name. A parameter that is omitted has its default.
        out: The output folder. The output of an earlier run there is replaced once the new output is complete.
        package: The compiled pipeline.

    Raises:
        CtbasisError: An argument is out of bounds; `out` holds other files, overlaps an input or is being written by
            another run; or a step failed.
    """
    check(dict(arguments))
    arguments = dict(arguments)
    if arguments.get("deploy"):
        raise CtbasisError(
            "deploy is given, and this run is on this machine",
            expected="a run on Kubeflow, whose cluster has the served model",
            remedy="use `ctbasis submit`, or leave deploy out",
        )
    if basis := str(arguments.get("basis", "")):
        _check_mode_of_basis(basis, str(arguments.get("mode", MODE.default)))
    if store := str(arguments.get("store", "")):
        # A folder of this run alone, so that it can be removed however the run ends.
        store = arguments["store"] = stores.run_folder("", store, f"local-{uuid.uuid4().hex}")
    out = out.resolve()
    refuse_overlap(out, [str(arguments.get(name, "")) for name in ("source", "truth", "basis")])
    start = time.monotonic()
    try:
        # The watchdog first: whenever this process is killed, it finds the folders that had been made by then.
        with (
            watched(out.parent, Path(tempfile.gettempdir())),
            replaced([out], ours=Results()) as (new,),
            scratch_folder("ctbasis-run") as scratch,
        ):
            # kfp leaves the code of every step in a temporary folder, and a step that is killed its temporary files.
            with variable("TMPDIR", str(scratch)), _steps_stop_with_this_process():
                steps = execute(package, arguments, new.parent)
            _collect(new.parent / "artifacts", new, str(arguments.get("mode", MODE.default)))
            list_files(new)
    except OSError as error:
        raise CtbasisError(
            f"{out} cannot be written ({error.strerror or error})", remedy="free some space or choose another --out"
        ) from error
    except KeyboardInterrupt:
        # The pipeline's cleanup step did not run.
        _end_children()
        if store:
            with suppress(CtbasisError):
                stores.delete_runs(store)
        raise
    return LocalRun(out=out, seconds=time.monotonic() - start, steps=steps)


def _check_mode_of_basis(basis: str, mode: str) -> None:
    """Check that a stored basis exists and is of the run's mode, before anything is fetched.

    Raises:
        CtbasisError: There is no basis at that place, or it is of the other mode.
    """
    kind = kind_at(basis)
    if kind != mode:
        raise CtbasisError(
            f"the basis at {basis} was made in {kind} mode, but this run is in {mode} mode",
            expected="the same mode",
            remedy=f"add --mode {kind}, or use `ctbasis denoise`, which takes the mode from the basis",
        )


@contextmanager
def _steps_stop_with_this_process() -> Iterator[None]:
    """Stop the steps' processes too when this process receives SIGTERM; Ctrl-C in a shell reaches them by itself."""

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


def execute(package: Path, arguments: dict[str, Any], work: Path) -> dict[str, float]:
    """Run a compiled package through kfp.local, and return the seconds that each step took by its name.

    Args:
        package: The package.
        arguments: Pipeline parameters by name.
        work: Folder for the artifacts, `artifacts`, and for the workspace, which is removed.

    Raises:
        CtbasisError: A step failed; with its reason.
    """
    from kfp import components, local

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(work / "artifacts"),
        # kfp removes this folder when the run ends; artifacts lie beside it and survive.
        workspace_root=str(work / "workspace"),
    )
    pipeline = components.load_component_from_file(str(package))
    for component in pipeline.component_spec.implementation.graph.components.values():
        for task in component.dag.tasks.values():
            # Retries are for lost pods. On this machine they would only repeat the error message of a step.
            task.ClearField("retry_policy")
    log = StepLog(sys.stdout)
    with warnings.catch_warnings():
        # The subprocess runner expects `python` in an image's name; here the steps run in this environment.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
        # Requests, limits and Secrets apply to a cluster; here the steps get this machine and this environment.
        warnings.filterwarnings("ignore", message=r"(?s).*have no effect in the current local runner")
        try:
            with redirect_stdout(log):
                pipeline(**arguments)
        except RuntimeError as error:
            if refused := log.error_message:
                raise CtbasisError.from_text(refused) from error
            raise CtbasisError(f"{error}", details=log.end) from error
        finally:
            log.close()
    return log.steps


def _collect(artifacts: Path, outputs: Path, mode: str) -> None:
    outputs.mkdir()
    for name, artifact in OUTPUTS.items():
        if MODE_OF_OUTPUT.get(name, mode) != mode:
            continue
        paths = list(artifacts.glob(f"*/{artifact}"))
        if len(paths) != 1:
            raise CtbasisError(f"the run wrote {len(paths)} artifacts {artifact}", expected="one")
        paths[0].replace(outputs / name)


@dataclass
class StepLog(io.TextIOBase):
    """A text stream that makes the output of kfp.local readable.

    Each step gets one line when it starts and one when it ends; its own output is indented between them.

    kfp.local writes the steps' output and its own messages to standard output. The messages of its executor and the
    JSON of the executor's input are dropped, because they do not help a user.

    Attributes:
        terminal: The stream that the readable lines are written to.
        steps: The duration of each finished step in seconds, by name.
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
    def error_message(self) -> str:
        """The error message of the step that refused its input; empty if no step did."""
        text = error_in_log(self._lines)
        return f"{self._failed}: {text}" if text and self._failed else text

    @property
    def end(self) -> list[str]:
        """The last lines of the output."""
        return list(self._lines)[-30:]

    def writable(self) -> bool:
        """Return True: the stream can be written to."""
        return True

    def write(self, text: str) -> int:
        """Write the complete lines of `text`, and keep the rest until its line is complete."""
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
        # The list of outputs continues over many lines, up to the next message.
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
        say(line.expandtabs(), to=self.terminal)
