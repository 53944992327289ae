"""The application's pods get the placement of the step's pod without the volumes that they do not need."""

from __future__ import annotations

from ctbasis.spark.placement import Placement


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


def test_a_placement_without_volumes_is_unchanged() -> None:
    assert Placement(env=[{"name": "A", "value": "1"}]).without("/x") == Placement(
        volumes=[], volume_mounts=[], env=[{"name": "A", "value": "1"}]
    )
