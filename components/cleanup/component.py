"""KFP component of the cleanup step; the program is ctbasis/steps/cleanup.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def cleanup(
    workspace: str,
    store: str,
    run: str,
    served_model: str,
    status: dsl.PipelineTaskFinalStatus,
    why_it_failed: dsl.Output[dsl.Markdown],
) -> None:
    """Say why the run failed, end its Spark application, and remove its intermediate files.

    Args:
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix of matrix and factors, empty if they are in the workspace.
        run: Id of the run, the name of its folder below the store.
        served_model: Served model of the deploy step, empty if the run has no such step.
        status: Final status of the run.
        why_it_failed: The step that failed and its reason, or that the run succeeded.
    """
    from pathlib import Path

    from ctbasis.steps.cleanup import every_step_succeeded, run_step
    from ctbasis.steps.notes import step_of_run

    with step_of_run("cleanup", workspace):
        print(f"cleanup: the run {status.state}")
        # kfp.local says SUCCEEDED. Kubeflow's back end says COMPLETE, the word of ML Metadata; FAILED if a program
        # failed; and RUNNING if the run was terminated, or a pod was lost before it could say how it ended.
        succeeded = status.state in {"SUCCEEDED", "COMPLETE"}
        # It says RUNNING as well if the last task of the group was left out by its condition.
        if status.state == "RUNNING":
            succeeded = every_step_succeeded(Path(workspace), deploys=bool(served_model))
        reason = run_step(Path(workspace), store, run, succeeded=succeeded, page=Path(why_it_failed.path))
    why_it_failed.metadata.update(reason)
