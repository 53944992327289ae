"""The component `spark_application`: run any SparkApplication of the Kubeflow Spark operator as a pipeline task."""

from components.spark_application.component import spark_application

__all__ = ["spark_application"]
