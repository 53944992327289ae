"""KFP shell of the cleanup."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def cleanup(workspace: str, store: str, run: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Remove the run's intermediate files, whether it succeeded or not.

    Args:
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix of matrix and factors, empty if they are in the workspace.
        run: The run's id, its folder below the store.
        status: How the run ended.
    """
    from pathlib import Path

    from ctbasis.steps.cleanup import cleanup
    from ctbasis.errors import exit_on_error

    with exit_on_error():
        print(f"cleanup: the run {status.state}")
        # kfp.local's word and that of Kubeflow's back end, which is ML Metadata's.
        cleanup(Path(workspace), store, run, succeeded=status.state in {"SUCCEEDED", "COMPLETE"})
