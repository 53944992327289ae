"""The commands of guides that need no cluster do what these say, with a real S3 server and a stand-in for Kubeflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from ctbasis.demo.s3server import S3Server
from tests.cohort.sources import write_small
from tests.docs.fences import execute
from tests.kubeflow.kfp_stand_in import KfpStandIn

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = f"registry.example.com/ctbasis/steps@sha256:{'1' * 64}"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_small(tmp_path / "series", 0)
    return tmp_path / "series"


def test_a_series_of_a_bucket_is_listed_and_denoised(series: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        server.put_folder(series, "s3://clinic/series-7")
        variables = {"AWS_REGION": "us-east-1", **server.environment(), "SOURCE": "s3://clinic/series-7"}
        printed = execute("docs/how-to/own-bucket.md", tmp_path, variables)
    assert "CT" in printed
    assert list((tmp_path / "denoised" / "denoised").rglob("*.dcm"))


def test_the_rank_is_chosen_from_one_factorization(series: Path, tmp_path: Path) -> None:
    variables = {"SERIES": str(series), "RANKS": "2,4", "RANK": "2"}
    execute("docs/how-to/choose-rank-or-tau.md", tmp_path, variables)
    assert (tmp_path / "ranks" / "figure1.png").is_file()
    assert list((tmp_path / "chosen").rglob("*.dcm"))


def test_a_package_for_readwriteonce_is_compiled_and_started_with_a_store(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with KfpStandIn() as server:
        variables = {
            "STEPS_IMAGE": IMAGE,
            "KUBEFLOW": server.url,
            "SOURCE": "s3://clinic/series-7",
            "STORE": "s3://scratch/ctbasis",
        }
        execute("docs/how-to/no-readwritemany.md", tmp_path, variables)
        assert server.refused == []
        (run,) = server.runs.values()
    assert run.arguments["store"] == "s3://scratch/ctbasis"
    assert run.arguments["source"] == "s3://clinic/series-7"
    *_, platform = yaml.safe_load_all((tmp_path / "here" / "denoise.yaml").read_text(encoding="utf-8"))
    claim = platform["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]["kubernetes"]["pvcSpecPatch"]
    assert claim["accessModes"] == ["ReadWriteOnce"]
