"""The commands of docs/how-to/kubeflow.md that need no cluster lead to a run on a server, without an edited file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.lint import rendered
from ctbasis.kubeflow.sizes import DEFAULT_SIZE, SIZES
from tests.docs.commands import CHECKOUT, KINDS, PAGE, blocks, clone, execute
from tests.kubeflow.kfp_stand_in import KfpStandIn

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = {
    name: f"registry.example.com:5000/lab/{name.partition('_')[0].lower()}@sha256:{digit * 64}"
    for name, digit in (("STEPS_IMAGE", "1"), ("SPARK_IMAGE", "2"))
}


def test_every_block_of_commands_says_what_it_needs_and_is_executed_by_a_test() -> None:
    kinds = [block.kind for block in blocks() if block.language == "sh"]
    assert set(kinds) == set(KINDS)
    for tests in KINDS.values():
        assert all((CHECKOUT / test).is_file() for test in tests)
    shown = [block for block in blocks() if block.language != "sh"]
    assert {block.language for block in shown} <= {"yaml", ""}
    commands = re.compile(r"^(ctbasis|kubectl|make|docker|helm|sed|python)\b", re.MULTILINE)
    assert not [block.text for block in shown if commands.search(block.text)]


@pytest.mark.parametrize("profile", ["", "team-ct"])
def test_the_commands_compile_render_and_submit(profile: str, tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    (folder / "here").mkdir()
    # What `make push` writes; tests/images/test_push.py executes it.
    (folder / "here" / "images.env").write_text("".join(f"{name}={image}\n" for name, image in IMAGES.items()))
    with KfpStandIn(multi_user=bool(profile)) as server, S3Server(tmp_path / "s3") as store:
        (tmp_path / "incoming" / "a").mkdir(parents=True)
        (tmp_path / "incoming" / "a" / "1.dcm").write_bytes(b"too new for a run")
        store.put_folder(tmp_path / "incoming", "s3://clinic/incoming")
        variables = {
            "REGISTRY": "registry.example.com:5000/lab",
            "PROFILE": profile,
            "KUBEFLOW": server.url,
            "SOURCE": "s3://clinic/series-7",
            "INCOMING": "s3://clinic/incoming",
            "HOME": str(tmp_path),
            **store.environment(),
        }
        execute(folder, kinds={"here", "kubeflow"}, variables=variables, seconds=600)
    assert server.refused == []
    (run,) = server.runs.values()
    assert run.arguments["source"] == "s3://clinic/series-7"
    executors = run.package["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {one["container"]["image"] for one in executors.values()} == {IMAGES["STEPS_IMAGE"]}
    assert (folder / "here" / "results" / "metrics.json").is_file()
    template = rendered_template(folder / "here")
    assert template["spec"]["image"] == IMAGES["SPARK_IMAGE"]
    assert template["metadata"]["namespace"] == (profile or "kubeflow")
    large = next(yaml.safe_load_all((folder / "here" / "large-matrix.yaml").read_text()))
    matrix = large["deploymentSpec"]["executors"]["exec-matrix"]["container"]["resources"]
    assert (matrix["resourceCpuRequest"], matrix["resourceMemoryRequest"]) == ("2", "16Gi")


def rendered_template(folder: Path) -> dict[str, Any]:
    documents = rendered.render(folder)
    (template,) = [document for document in documents if document["kind"] == "SparkApplication"]
    return template


def test_the_table_of_sizes_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \| (.+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    table = {step: sizes for step, *sizes in rows if step in SIZES[DEFAULT_SIZE]}
    assert table == {
        step: [f"{size[step].cpu}, {size[step].memory}" for size in SIZES.values()] for step in SIZES[DEFAULT_SIZE]
    }
