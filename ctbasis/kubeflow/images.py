"""The names in the compiled pipelines: their own, and that of the image that `make images` builds for its steps."""

from ctbasis.installed import VERSION

PIPELINE = "ctbasis-denoise"
"""The pipeline, as `pipelineInfo.name` of a package states it."""

COHORT_PIPELINE = "ctbasis-cohort"
"""The pipeline of cohorts."""

STEPS = f"ctbasis/steps:{VERSION}"
