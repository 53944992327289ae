"""Launch of a SparkApplication on this machine: its manifest is translated into a spark-submit command."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.installed import IMAGE_ROOT, LAYOUT
from ctbasis.printable import say
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.jobs.spark_application import SparkApplication

LOCAL_SCHEME = "local://"
"""Scheme of a URI that names a file in the Spark image."""

LEAST_JAVA = 17

FIRST_HEAP = 1024
"""Initial size of the heap in MiB, if its limit allows: a heap that grows costs garbage collections. Executors in pods
start with their full heap (images/spark/entrypoint.sh)."""

LOOPBACK = "127.0.0.1"

KUBERNETES_SETTINGS = ("spark.kubernetes.", "spark.blockManager.port")
"""Beginnings of the settings that mean something only on Kubernetes. On one machine, a fixed port of the block manager
would be one that another run uses."""

CHANNEL_SETTINGS = ("spark.authenticate", "spark.network.crypto.", "spark.io.encryption.")
"""Beginnings of the settings that authenticate and encrypt Spark's connections. A Spark master at an address shares one
secret with all its applications: its workers refuse an application with another secret, or with none. The secret is in
the master's `spark-defaults.conf`, never in a manifest, and these settings stand beside it."""

UNAUTHENTICATED = (
    "svd: the connections to {master} are not authenticated: whoever reaches the driver's port can register as an "
    "executor and be given the data; put spark.authenticate and spark.authenticate.secret into spark-defaults.conf in "
    "SPARK_CONF_DIR, here and on the cluster"
)

TAIL_LINES = 200


def launch(application: SparkApplication, *, master: str = "") -> None:
    """Run `application` on this machine and return when it has succeeded; its output goes to standard error.

    Args:
        application: The application.
        master: URL of the Spark master whose executors do the work; empty for this machine.

    Raises:
        CtbasisError: Java or the Mahout jar is missing, or the application failed.
    """
    if java_version() is None:
        raise CtbasisError(
            "Spark needs Java, and none is installed",
            expected=f"`java` {LEAST_JAVA} or newer on PATH or in JAVA_HOME",
            remedy="run `make setup`, install openjdk-17-jre-headless, or choose --engine numpy",
        )
    with scratch_folder("ctbasis-spark") as scratch:
        manifest = application.to_manifest()
        command = spark_submit(manifest, master=master)
        if master and not authenticates():
            say(UNAUTHENTICATED.format(master=master))
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with _submitted(command, manifest, str(scratch)) as process:
            for line in process.stdout or ():
                tail.append(line)
                say(line.rstrip("\n").expandtabs())
    if process.returncode != 0:
        raise _failure(process.returncode, tail)


def java_version() -> int | None:
    """Return the major version of the Java that Spark would use; None if there is none, or only an older one."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        return None
    output = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', output)
    version = int(match[1]) if match else 0
    return version if version >= LEAST_JAVA else None


def authenticates() -> bool:
    """Return whether the `spark-defaults.conf` of this machine switches on authentication."""
    folder = os.environ.get("SPARK_CONF_DIR") or _spark_home() / "conf"
    try:
        text = Path(folder, "spark-defaults.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The last of several lines counts; the format is that of Java's properties.
    values: list[str] = re.findall(r"^[ \t]*spark\.authenticate[ \t]*[ \t=:][ \t]*(\S+)", text, re.MULTILINE)
    return bool(values) and values[-1].lower() == "true"


def spark_submit(manifest: Mapping[str, Any], *, master: str = "") -> list[str]:
    """Translate the manifest of a SparkApplication into the command that runs it on this machine.

    One JVM is driver and executors, so it gets the larger memory of the two and the Java options of both.
    Settings that mean something only on Kubernetes (`KUBERNETES_SETTINGS`) are left out. The application authenticates
    and encrypts its connections on this machine as on Kubernetes, with a secret that Spark draws; other users of the
    machine reach its ports too. With `master`, these settings (`CHANNEL_SETTINGS`) are left out as well: those of
    `spark-defaults.conf` in SPARK_CONF_DIR apply.

    Args:
        manifest: Manifest, as from `SparkApplication.to_manifest`.
        master: URL of the Spark master whose executors do the work; empty for this machine. The machines of the cluster
            need ctbasis at the path that it has here, and a connection to this machine, where the driver runs.

    Raises:
        CtbasisError: A file that the manifest names does not exist here.
    """
    spec = manifest["spec"]
    driver, executor = spec["driver"], spec["executor"]
    cores = min(os.cpu_count() or 1, max(1, executor.get("instances", 1) * executor.get("cores", 1)))
    memory = max(driver["memory"], executor["memory"], key=_mebibytes)
    java_options = [f"-Xms{min(FIRST_HEAP, int(_mebibytes(memory)))}m"]
    # The manifest's come last: of two equal options Java uses the last.
    java_options += dict.fromkeys(f"{driver.get('javaOptions', '')} {executor.get('javaOptions', '')}".split())
    without = (*KUBERNETES_SETTINGS, *CHANNEL_SETTINGS) if master else KUBERNETES_SETTINGS
    conf = {
        **{key: value for key, value in spec.get("sparkConf", {}).items() if not key.startswith(without)},
        "spark.driver.extraJavaOptions": " ".join(java_options),
        "spark.ui.enabled": "false",
    }
    if master:
        conf |= {"spark.executor.memory": executor["memory"], "spark.executor.cores": str(executor.get("cores", 1))}
        conf |= {f"spark.executorEnv.{name}": value for name, value in _variables(executor).items()}
        if LAYOUT.import_path:
            conf["spark.executorEnv.PYTHONPATH"] = str(LAYOUT.import_path)
    else:
        # Without a cluster Spark opens ports on loopback only.
        conf |= {"spark.driver.bindAddress": LOOPBACK, "spark.driver.host": LOOPBACK}
    command = [str(_spark_home() / "bin" / "spark-submit"), "--master", master or f"local[{cores}]"]
    command += ["--name", manifest["metadata"]["name"]]
    command += ["--driver-memory", memory]
    for key, value in sorted(conf.items()):
        command += ["--conf", f"{key}={value}"]
    jars = [_local(jar) for jar in spec.get("deps", {}).get("jars", [])]
    if jars:
        command += ["--jars", ",".join(jars)]
    return [*command, _local(spec["mainApplicationFile"]), *spec.get("arguments", [])]


def _spark_home() -> Path:
    """Return the folder of the installed PySpark, without importing it, which is slow."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise CtbasisError("pyspark is not installed here", remedy="run `make setup`, or choose --engine numpy")
    return Path(spec.origin).parent


def _local(uri: str) -> str:
    """Return the file of this machine that a `local://` URI of the Spark image stands for; any other URI unchanged."""
    if not uri.startswith(f"{LOCAL_SCHEME}{IMAGE_ROOT}/"):
        return uri
    path = LAYOUT.local_file(uri.removeprefix(LOCAL_SCHEME))
    if not path.exists():
        raise CtbasisError(
            f"{path} is missing; the SparkApplication names it as {uri}",
            expected="a file that `make setup` builds in a checkout, and that the wheel holds",
            remedy="run `make setup` in the checkout, or install the wheel again",
        )
    return str(path)


def _mebibytes(memory: str) -> float:
    units = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
    match = re.fullmatch(r"(\d+)([kmgt])[bi]*", memory.strip().lower())
    if match is None:
        raise CtbasisError(f"memory {memory!r} in the manifest", expected="a size such as 512m or 3g")
    return int(match[1]) * units[match[2]]


@contextmanager
def _submitted(command: list[str], manifest: Mapping[str, Any], scratch: str) -> Iterator[subprocess.Popen[str]]:
    """Run spark-submit in a new process group, so that a cancelled step ends the JVM and its Python workers too."""
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        **_variables(manifest["spec"]["driver"]),
        "SPARK_LOCAL_DIRS": scratch,
    }
    if f"spark.driver.host={LOOPBACK}" in command:
        environment["SPARK_LOCAL_IP"] = LOOPBACK
    environment["PYTHONPATH"] = LAYOUT.python_path()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )

    def stop(signum: int, _frame: object) -> None:
        os.killpg(process.pid, signal.SIGTERM)
        sys.exit(128 + signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        with process:
            yield process
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _variables(pod: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod.get("env", []) if "value" in entry}


def _failure(code: int, tail: deque[str]) -> CtbasisError:
    error = error_in_log(tail)
    if error:
        return CtbasisError.from_text(error)
    log = "".join(tail)
    if "OutOfMemoryError" in log:
        return CtbasisError(
            "the Spark application ran out of memory",
            cause="blocks of the matrix, the projection and shuffle buffers did not fit into the JVM",
            remedy="raise executor.memory in manifests/sparkapplication.yaml, or lower the rank",
        )
    if "No space left on device" in log:
        return CtbasisError("the disk is full", cause="Spark's shuffle files or the factors", remedy="free some space")
    last = [line.rstrip() for line in list(tail)[-15:]]
    return CtbasisError(f"the Spark application failed with exit code {code}; its last lines:", details=last)
