"""KFP component of the reconstruct step; the program is ctbasis/steps/reconstruct.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def reconstruct(
    basis: dsl.Input[dsl.Model],
    denoised_matrix: str,
    rank: int,
    compress: str,
    workspace: str,
    store: str,
    run: str,
    denoised: dsl.Output[dsl.Artifact],
    basis_images: dsl.Output[dsl.Artifact],
    noise: dsl.Output[dsl.Artifact],
) -> None:
    """Write the denoised series as DICOM, with basis images in global mode or maps of the noise in patch mode.

    Args:
        basis: Basis vectors, weights and singular values.
        denoised_matrix: URI of the denoised matrix of patch mode, empty in global mode.
        rank: Rank k of the denoised series in global mode.
        compress: Lossless compression of the pixels, or none.
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix of the run's stores, empty if they are in the workspace.
        run: Id of the run.
        denoised: The derived DICOM series.
        basis_images: Global mode: the first k basis images as a DICOM series.
        noise: Patch mode: the standard deviation of the noise, slice by slice, as a DICOM series.
    """
    from pathlib import Path

    from ctbasis.parameters import OutputPlan
    from ctbasis.steps.cleanup import remove_after_retry
    from ctbasis.steps.job import run_program
    from ctbasis.steps.reconstruct import DerivedSeries, run_step

    run_program(
        "reconstruct",
        workspace,
        lambda: run_step(
            basis.path,
            denoised_matrix,
            Path(denoised.path),
            OutputPlan(compress),
            rank=rank,
            basis_images=Path(basis_images.path),
            noise=Path(noise.path),
        ),
        otherwise=list[DerivedSeries](),
        artifacts=[denoised.path, basis_images.path, noise.path],
    )
    remove_after_retry(Path(workspace), store, run)
