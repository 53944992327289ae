"""What the node says of its jobs over HTTP: the bodies of its answers, which `ctbasis view` reads as well."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ctbasis.node.queue import JobState  # noqa: TC001 - pydantic evaluates the annotations

Kind = Literal["before", "after", "sigma"]
"""Which of a job's files: the received series, the denoised volume, or the maps of its noise."""


class JobStatus(BaseModel):
    """A series that is to be denoised, or was."""

    id: int
    study: str = Field(description="StudyInstanceUID")
    series: str = Field(description="SeriesInstanceUID")
    instances: int = Field(description="Number of instances of the series when the job was made")
    state: JobState
    stage: str = Field(description="What is done now, such as `denoise 1/2`: the first of two volumes")
    progress: float = Field(ge=0, le=1, description="Part of the steps that are done, also of a job that failed")
    attempts: int = Field(description="How often it was started")
    created: float = Field(description="Time at which the series was complete, seconds since 1970")
    ended: float | None = Field(description="Time of its end")
    deliveries: dict[str, int] = Field(description="Number of deliveries that are waiting, sending, sent, failed")
    record: dict[str, Any] = Field(
        description="Basis, notes, output series and seconds of each stage, or the reason of a failure"
    )


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobStatus]


class JobFiles(BaseModel):
    """How many DICOM files the node keeps of one volume of a job."""

    volumes: int = Field(ge=1, description="Number of volumes of the series")
    before: int = Field(ge=1, description="Files of the received series; all of its volumes")
    after: int = Field(ge=1, description="Files of the denoised volume, in the order of its slices")
    sigma: int = Field(ge=0, description="Files of its noise maps, in the same order; 0 if there are none")
