"""The verb `ctbasis lint --cluster`: what it prints, its exit codes, and a KUBECONFIG that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from ctbasis.cli import main
from ctbasis.kubeflow import package
from tests.kubeflow.cluster_lint.cluster_stand_in import TEMPLATE, ClusterStandIn

if TYPE_CHECKING:
    from pathlib import Path


def ctbasis(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_verb_prints_what_is_missing_and_ends_with_exit_code_2(
    cluster: ClusterStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "config")))
    good = ctbasis("lint", "--cluster", package.PACKAGE)
    assert good.exit_code == 0, good.output
    del cluster.objects[TEMPLATE]
    bad = ctbasis("lint", "--cluster", package.PACKAGE)
    assert bad.exit_code == 2
    assert "missing Spark operator: the namespace kubeflow has no SparkApplication ctbasis-svd" in bad.stdout
    assert "missing in the cluster, namespace kubeflow: 1 thing\n" in bad.stderr
    assert "secret-token" not in bad.output


@pytest.mark.parametrize("content", ["", "clusters: [", "clusters: 3\ncontexts: x", "\x00", "[]", "current-context: a"])
def test_a_kubeconfig_that_cannot_be_used_is_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    refused = ctbasis("lint", "--cluster", package.PACKAGE)
    assert refused.exit_code == 2, refused.output
    assert isinstance(refused.exception, SystemExit)
    assert "KUBECONFIG" in refused.stderr


def test_a_cluster_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClusterStandIn() as gone:
        monkeypatch.setenv("KUBECONFIG", str(gone.kubeconfig(tmp_path / "config")))
    refused = ctbasis("lint", "--cluster", package.PACKAGE)
    assert refused.exit_code == 2
    assert "the cluster of KUBECONFIG does not answer" in refused.stderr


def test_the_options_of_the_cluster_need_the_cluster_and_the_cluster_needs_a_package(tmp_path: Path) -> None:
    assert "belong to --cluster" in ctbasis("lint", "--namespace", "x").stderr
    (tmp_path / "pod.yaml").write_text("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}")
    refused = ctbasis("lint", "--cluster", tmp_path / "pod.yaml")
    assert refused.exit_code == 2
    assert "none of the files is a compiled package" in refused.stderr
