"""KFP component of the report step; the program is ctbasis/steps/report.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def report(
    matrix: str,
    truth_matrix: str,
    basis: dsl.Input[dsl.Model],
    denoised_matrix: str,
    qc: dsl.Input[dsl.Artifact],
    rank: int,
    ranks: str,
    workspace: str,
    store: str,
    run: str,
    figure1: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Write the figures, the metrics and the report page.

    Args:
        matrix: URI of the matrix store.
        truth_matrix: URI of the clean copy's matrix store, empty if there is none.
        basis: Basis vectors, weights and singular values.
        denoised_matrix: URI of the denoised matrix of patch mode, empty in global mode.
        qc: qc.json of the matrix step.
        rank: Rank k of the denoised series in global mode.
        ranks: Ranks shown in Figure 1, comma-separated.
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix of the run's stores, empty if they are in the workspace.
        run: Id of the run.
        figure1: Figure 1 as PNG.
        page: report.html, the full report on one page.
        summary: report.md, a short form of the report.
        metrics: metrics.json; its scalars are also KFP metrics.
    """
    from pathlib import Path

    from ctbasis.steps.cleanup import remove_after_retry
    from ctbasis.steps.job import run_program
    from ctbasis.steps.report import run_step

    files = {"figure1.png": figure1, "report.html": page, "report.md": summary, "metrics.json": metrics}
    scalars: dict[str, float] = run_program(
        "report",
        workspace,
        lambda: run_step(
            matrix,
            basis.path,
            denoised_matrix,
            {name: Path(artifact.path) for name, artifact in files.items()},
            truth_uri=truth_matrix,
            qc=Path(qc.path),
            rank=rank,
            ranks=ranks,
        ),
        otherwise={},
        artifacts=[artifact.path for artifact in files.values()],
    )
    for name, value in scalars.items():
        metrics.log_metric(name, value)
    remove_after_retry(Path(workspace), store, run)
