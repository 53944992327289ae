"""KFP component of the summary step of a cohort; the program is in ctbasis/cohort/pipeline_steps.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def summary(
    jobs: list,  # type: ignore[type-arg]
    workspace: str,
    run: str,
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Write the summary of a cohort: what became of each series. It fails if no series is in place.

    Args:
        jobs: How each job ended, so that this step runs after all of them.
        workspace: Root of the run's workspace.
        run: Id of the run.
        page: summary.html, a row for each series with the reason of those that failed.
        metrics: Number of series by their state: done, unchanged, failed, set aside, not run.
    """
    from pathlib import Path

    from ctbasis.cohort.pipeline_steps import summarize_run
    from ctbasis.steps.cleanup import remove_after_retry
    from ctbasis.steps.notes import step_of_run

    print(f"summary: {len(jobs)} jobs ended")
    with step_of_run("summary", workspace):
        counts = summarize_run(Path(workspace), Path(page.path))
    for state, count in counts.items():
        metrics.log_metric(state, count)
    remove_after_retry(Path(workspace), "", run)
