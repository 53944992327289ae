"""The application's pods get the placement of the step's pod without the volumes that they do not need."""

from __future__ import annotations

from ctbasis.jobs.placement import Placement


def test_a_volume_that_the_executors_do_not_need_is_left_out() -> None:
    workspace, scratch = {"name": "ws", "persistentVolumeClaim": {"claimName": "run"}}, {"name": "s", "emptyDir": {}}
    env = [{"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "ctbasis-s3", "key": "K"}}}]
    placement = Placement(
        volumes=[workspace, scratch],
        volume_mounts=[{"name": "ws", "mountPath": "/kfp-workspace"}, {"name": "s", "mountPath": "/kfp-workspace2"}],
        env=env,
    ).without("/kfp-workspace/")
    assert placement == Placement(
        volumes=[scratch], volume_mounts=[{"name": "s", "mountPath": "/kfp-workspace2"}], env=env
    )


def test_a_placement_on_a_node_keeps_what_was_required_of_nodes() -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    field = {"key": "metadata.name", "operator": "In", "values": ["node7"]}
    alone = Placement().on_node("node7")
    assert alone.affinity == {"nodeAffinity": {required: {"nodeSelectorTerms": [{"matchFields": [field]}]}}}
    terms = [{"matchExpressions": [{"key": key, "operator": "Exists"}]} for key in ("ssd", "gpu")]
    preferred = [{"weight": 1, "preference": {}}]
    affinity = {
        "podAffinity": {"x": 1},
        "nodeAffinity": {required: {"nodeSelectorTerms": terms}, "preferredDuringScheduling": preferred},
    }
    placed = Placement(affinity=affinity).on_node("node7").affinity
    assert placed["podAffinity"] == {"x": 1}
    assert placed["nodeAffinity"]["preferredDuringScheduling"] == preferred
    assert placed["nodeAffinity"][required]["nodeSelectorTerms"] == [{**term, "matchFields": [field]} for term in terms]
    assert affinity["nodeAffinity"] == {
        required: {"nodeSelectorTerms": terms},
        "preferredDuringScheduling": preferred,
    }


def test_a_placement_without_volumes_is_unchanged() -> None:
    assert Placement(env=[{"name": "A", "value": "1"}]).without("/x") == Placement(
        volumes=[], volume_mounts=[], env=[{"name": "A", "value": "1"}]
    )
