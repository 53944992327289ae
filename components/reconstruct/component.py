"""KFP shell of the reconstruct step."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def reconstruct(
    basis: dsl.Input[dsl.Model],
    denoised_matrix: str,
    rank: int,
    compress: str,
    denoised: dsl.Output[dsl.Artifact],
    basis_images: dsl.Output[dsl.Artifact],
    noise: dsl.Output[dsl.Artifact],
) -> None:
    """Write the denoised series as DICOM, with the basis images in global mode, with maps of the noise in patch mode.

    Args:
        basis: Basis vectors, weights and singular values.
        denoised_matrix: URI of the denoised matrix of patch mode, empty in global mode.
        rank: k.
        compress: Lossless compression of the pixels, or none.
        denoised: The derived DICOM series.
        basis_images: Global mode: the first k basis images as a DICOM series of their own.
        noise: Patch mode: sigma of every slice as a DICOM series of its own.
    """
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.steps.reconstruct import reconstruct, reconstruct_patches

    with exit_on_error():
        if denoised_matrix:
            reconstruct_patches(denoised_matrix, Path(denoised.path), compression=compress, noise=Path(noise.path))
            return
        reconstruct(
            basis.path, Path(denoised.path), rank=rank, compression=compress, basis_images=Path(basis_images.path)
        )
