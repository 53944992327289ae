"""KFP shell of the report step."""

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
    figure1: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Make the pictures, the numbers and the page.

    Args:
        matrix: URI of the matrix store.
        truth_matrix: URI of the clean copy's store, empty if there is none.
        basis: Basis vectors, weights and singular values.
        denoised_matrix: URI of the denoised matrix of patch mode, empty in global mode.
        qc: qc.json of the matrix step.
        rank: k of the denoised series.
        ranks: Ranks of Figure 1.
        figure1: Figure 1 as PNG.
        page: report.html.
        summary: The same in short.
        metrics: metrics.json, its scalars also as KFP metrics.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.report.patch_report import write_patch_report
    from ctbasis.report.global_report import write_report
    from ctbasis.svd.rank import parse_ranks

    with exit_on_error(), tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "report"
        read, truth = Path(qc.path), truth_matrix or None
        if denoised_matrix:
            scalars = write_patch_report(matrix, denoised_matrix, basis.path, qc=read, out=out, truth_uri=truth)
        else:
            scalars = write_report(
                matrix, basis.path, rank=rank, ranks=parse_ranks(ranks), qc=read, out=out, truth_uri=truth
            )
        for name, artifact in {
            "figure1.png": figure1,
            "report.html": page,
            "report.md": summary,
            "metrics.json": metrics,
        }.items():
            shutil.copyfile(out / name, artifact.path)
    for name, value in scalars.items():
        metrics.log_metric(name, value)
