"""KFP component of the cleanup step; the program is ctbasis/steps/cleanup.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def cleanup(workspace: str, store: str, run: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Remove the run's intermediate files, whether the run succeeded or failed.

    Args:
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix of matrix and factors, empty if they are in the workspace.
        run: Id of the run, the name of its folder below the store.
        status: Final status of the run.
    """
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.steps.cleanup import run_step

    with exit_on_error():
        print(f"cleanup: the run {status.state}")
        # kfp.local says SUCCEEDED, Kubeflow's back end COMPLETE, the word of ML Metadata.
        run_step(Path(workspace), store, run, succeeded=status.state in {"SUCCEEDED", "COMPLETE"})
