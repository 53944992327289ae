"""KFP component of the publish step of a cohort; the program is in ctbasis/cohort/pipeline_steps.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def publish(
    out: str,
    matrix: str,
    denoised: dsl.Input[dsl.Artifact],
    basis_images: dsl.Input[dsl.Artifact],
    noise: dsl.Input[dsl.Artifact],
    basis: dsl.Input[dsl.Model],
    figure1: dsl.Input[dsl.Artifact],
    page: dsl.Input[dsl.HTML],
    metrics: dsl.Input[dsl.Metrics],
    qc: dsl.Input[dsl.Artifact],
    mode: str,
    workspace: str,
) -> str:
    """Put the results of one job of a cohort in its output, and remove the files of the job.

    Args:
        out: s3://bucket/prefix for the results.
        matrix: URI of the matrix store.
        denoised: The derived DICOM series.
        basis_images: Global mode: the first k basis images as a DICOM series.
        noise: Patch mode: the standard deviation of the noise, slice by slice, as a DICOM series.
        basis: Basis vectors, weights and singular values.
        figure1: Figure 1 as PNG.
        page: report.html, the full report on one page.
        metrics: metrics.json.
        qc: qc.json of the matrix step.
        mode: What was factored, global or patch.
        workspace: Workspace of the job.

    Returns:
        published, or failed.
    """
    from pathlib import Path

    from ctbasis.cohort.pipeline_steps import FAILED, publish_job
    from ctbasis.steps.job import clear_job, run_program

    of_mode = {"noise": noise} if mode == "patch" else {"basis-images": basis_images}
    files = {
        "denoised": denoised,
        "basis": basis,
        "figure1.png": figure1,
        "report.html": page,
        "metrics.json": metrics,
        "qc.json": qc,
        **of_mode,
    }
    state: str = run_program(
        "publish",
        workspace,
        lambda: publish_job(Path(workspace), out, matrix, {name: Path(one.path) for name, one in files.items()}),
        otherwise=FAILED,
    )
    clear_job(Path(workspace))
    return state
