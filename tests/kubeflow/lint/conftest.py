"""Fixtures of the lint's tests."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from kfp import compiler

from tests.kubeflow.lint.samples import rich


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the two documents of a package with loops, conditions, nesting, an exit handler and a workspace."""
    path = tmp_path_factory.mktemp("compiled") / "rich.yaml"
    compiler.Compiler().compile(rich, str(path))
    return list(yaml.safe_load_all(path.read_text()))
