"""What of a task's Kubernetes configuration a component of a Spark application gets, to apply it to the Spark pods."""

from kfp import dsl

SPARK_PASSTHROUGHS = [
    # The pods of the application go where the pod of the step goes, and see what it sees.
    dsl.TaskConfigPassthrough(field=field, apply_to_task=True)
    for field in (
        dsl.TaskConfigField.KUBERNETES_VOLUMES,
        dsl.TaskConfigField.ENV,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
    )
] + [
    # The resources of the task are the driver's and the executors'; the pod of the step only waits for them.
    dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.RESOURCES, apply_to_task=False)
]
