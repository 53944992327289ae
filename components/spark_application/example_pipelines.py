"""Pipelines that run a SparkApplication. `python -m components.spark_application.example_pipelines` compiles them."""

from kfp import compiler, dsl, kubernetes

from components.spark_application.component import spark_application
from ctbasis.kubeflow.images import STEPS

SPARK_IMAGE = "spark:4.0.0"

PI = {
    "apiVersion": "sparkoperator.k8s.io/v1beta2",
    "kind": "SparkApplication",
    "metadata": {"name": "pi"},
    "spec": {
        "type": "Python",
        "mode": "cluster",
        "image": SPARK_IMAGE,
        "sparkVersion": "4.0.0",
        "mainApplicationFile": "local:///opt/spark/examples/src/main/python/pi.py",
        "arguments": ["${partitions}"],
        "restartPolicy": {"type": "Never"},
        "timeToLiveSeconds": 3600,
        "driver": {"cores": 1, "memory": "512m", "serviceAccount": "spark"},
        "executor": {"cores": 1, "memory": "512m", "instances": 2},
    },
}
"""The example of Spark that estimates pi, on two executors. Its image and account are those of your cluster."""


USER = 185
"""Numeric user ID of the image of the component."""


def as_image_user(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run a task as the user of its image, without which a namespace with Pod Security *restricted* refuses its pod."""
    return kubernetes.set_security_context(task, run_as_user=USER, run_as_non_root=True)


@dsl.pipeline(name="spark-pi", description="Estimate pi on Spark.")
def spark_pi() -> None:
    """Run one application. A run that is terminated or deleted takes it along."""
    task = spark_application(manifest=PI, parameters={"partitions": "16"}, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    as_image_user(task).set_caching_options(enable_caching=False)


@dsl.component(base_image=STEPS, install_kfp_package=False)
def end_application(run: str, name: str) -> None:
    """Delete the application of a task if it still runs, and wait until its pods are gone: an exit handler.

    Args:
        run: The `run` of the task.
        name: metadata.name of the task's manifest.
    """
    from ctbasis.errors import exit_on_error
    from ctbasis.jobs.launcher import end
    from ctbasis.jobs.spark_application import SparkApplication
    from ctbasis.spark.launch import application_name

    with exit_on_error():
        end(SparkApplication, application_name(run, name))


@dsl.pipeline(name="spark-pi-guarded", description="Estimate pi on Spark; nothing of it outlives the run.")
def spark_pi_guarded() -> None:
    """Run one application, of given size. An exit handler ends it if the task was killed, as for memory."""
    run = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    with dsl.ExitHandler(as_image_user(end_application(run=run, name="pi")), name="spark"):
        task = as_image_user(spark_application(manifest=PI, parameters={"partitions": "16"}, run=run))
        task.set_caching_options(enable_caching=False).set_retry(num_retries=2)
        # Of the driver and of each executor, in place of cores and memory of the manifest.
        task.set_cpu_request("1").set_cpu_limit("1").set_memory_request("1Gi").set_memory_limit("1Gi")


if __name__ == "__main__":
    for pipeline in (spark_pi, spark_pi_guarded):
        compiler.Compiler().compile(pipeline, f"{pipeline.name}.yaml")
