"""KFP component that runs any SparkApplication; the program is ctbasis/steps/spark_application.py."""

from typing import Any, NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS
from ctbasis.kubeflow.task_config import SPARK_PASSTHROUGHS


@dsl.component(base_image=STEPS, install_kfp_package=False, task_config_passthroughs=SPARK_PASSTHROUGHS)
def spark_application(
    run: str,
    driver_log: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    task_config: dsl.TaskConfig,
    manifest: dict[str, Any] = {},  # noqa: B006 - KFP reads the default, and nothing changes it
    manifest_yaml: str = "",
    parameters: dict[str, Any] = {},  # noqa: B006 - the same
    on_stop: str = "leave",
) -> NamedTuple("Application", [("name", str), ("state", str)]):
    """Run a SparkApplication of the Kubeflow Spark operator to its end.

    A second try of the task adopts the application that the first has started. The driver's log goes to the log of the
    task. If the application fails, the task fails and prints the reasons: the end of the driver's log, exit codes,
    memory limits, pods that could not start, messages of the operator. Volumes, environment, node selector, affinity,
    tolerations and resources of the task are those of the driver and the executors.

    Args:
        run: Identity of the task, dsl.PIPELINE_JOB_ID_PLACEHOLDER. Tasks of one run that have the same metadata.name,
            as in a loop, need one each: add dsl.PIPELINE_TASK_ID_PLACEHOLDER.
        driver_log: The driver's log, if the application succeeded.
        metrics: Attempts, number of executors, seconds of waiting and running.
        task_config: Configuration of the task's pod; filled in by Kubeflow.
        manifest: The manifest of the SparkApplication as a dictionary. Its metadata.name is the begin of the name.
        manifest_yaml: The manifest as YAML, in place of `manifest`.
        parameters: Values of the placeholders ${name} in the texts of the manifest, by name. A text that is nothing but
            a placeholder gets the type of its value.
        on_stop: What happens to the application when the task's pod is deleted, for example drained. leave: it
            continues, and the second try of the task adopts it. delete: it is deleted, and the second try begins anew.
            When the run is terminated, the application is deleted in either case.

    Returns:
        name: Name of the application in the namespace.
        state: COMPLETED.
    """
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.jobs.placement import Placement
    from ctbasis.steps.spark_application import run_step

    placement = Placement(**{name: value for name, value in vars(task_config).items() if value})
    with exit_on_error():
        done = run_step(
            manifest,
            manifest_yaml,
            parameters,
            run=run,
            on_stop=on_stop,
            placement=placement,
            driver_log=Path(driver_log.path),
        )
    for name, value in done.metrics.items():
        metrics.log_metric(name, value)
    return done.name, done.state
