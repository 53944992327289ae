"""Folders of runs on S3: only those with our own mark are listed, and only our stores in them are removed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.storage import run_folders, stores
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.stores import MARK
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from ctbasis.demo.s3server import S3Server

A = np.ones((40, 3), dtype=np.int16)


def test_marked_folders_are_listed_at_any_depth_with_the_time_of_their_last_write(prefix: str) -> None:
    run_folders.mark(f"{prefix}/run-2", "run-2", on_kubeflow=True)
    run_folders.mark(f"{prefix}/local-7/run-1", "run-1", on_kubeflow=False)
    write_matrix(f"{prefix}/run-2/matrix.zarr", A)
    first, second = run_folders.marked(prefix)
    assert (first.uri, first.run, first.on_kubeflow) == (f"{prefix}/local-7/run-1", "run-1", False)
    assert (second.uri, second.run, second.on_kubeflow) == (f"{prefix}/run-2", "run-2", True)
    assert second.written == max(ObjectStore(f"{prefix}/run-2").written().values())
    assert abs(datetime.now(UTC) - second.written) < timedelta(minutes=5)


@pytest.mark.parametrize(
    "mark",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({"written_by": "another", "run": "kept", "on_kubeflow": True}).encode(),
        json.dumps({"written_by": "ctbasis", "run": "another", "on_kubeflow": True}).encode(),
        b"\xff",
    ],
)
def test_a_folder_whose_mark_is_not_its_own_is_not_listed(prefix: str, mark: bytes) -> None:
    ObjectStore(prefix).write(f"kept/{MARK}", mark)
    assert run_folders.marked(prefix) == []


def test_a_basis_that_a_user_keeps_below_the_prefix_is_not_listed(prefix: str) -> None:
    write_matrix(f"{prefix}/knees/basis.zarr", A)
    ObjectStore(prefix).write(MARK, b"a mark without a folder")
    assert run_folders.marked(prefix) == []


def test_the_stores_and_then_the_mark_of_a_run_are_removed_and_nothing_else(prefix: str) -> None:
    folder = f"{prefix}/run-1"
    run_folders.mark(folder, "run-1", on_kubeflow=True)
    write_matrix(f"{folder}/matrix.zarr", A)
    ObjectStore(folder).write("thesis.txt", b"three years of work")
    assert stores.delete_run(folder) == (["matrix.zarr"], ["thesis.txt"])
    assert list(stores.keys(folder)) == ["thesis.txt"]
    assert run_folders.marked(prefix) == []


def test_marking_a_folder_creates_no_bucket(aws: S3Server) -> None:
    with pytest.raises(CtbasisError, match="there is no bucket"):
        run_folders.mark("s3://no-such-bucket/x/run-1", "run-1", on_kubeflow=True)
    assert "no-such-bucket" not in {one["Name"] for one in aws.client().list_buckets()["Buckets"]}
