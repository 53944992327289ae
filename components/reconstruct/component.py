"""KFP shell of the reconstruct step."""

from kfp import dsl

from pipeline.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def reconstruct(
    basis: dsl.Input[dsl.Model],
    rank: int,
    compress: str,
    denoised: dsl.Output[dsl.Artifact],
    basis_images: dsl.Output[dsl.Artifact],
) -> None:
    """Write the rank-k series as DICOM.

    Args:
        basis: Basis vectors, weights and singular values.
        rank: k.
        compress: Lossless compression of the pixels, or none.
        denoised: The derived DICOM series.
        basis_images: The first k basis images as a DICOM series of their own.
    """
    from pathlib import Path

    from components.errors import refusing
    from components.reconstruct.reconstruct import reconstruct

    with refusing():
        reconstruct(
            basis.path, Path(denoised.path), rank=rank, compression=compress, basis_images=Path(basis_images.path)
        )
