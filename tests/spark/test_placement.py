"""What Kubeflow decided for the step goes on to the application's pods, but for what they do not need."""

from __future__ import annotations

from ctbasis.spark.placement import Placement


def test_a_claim_that_the_executors_do_not_read_is_not_handed_on() -> None:
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


def test_a_placement_without_volumes_stays_as_it_is() -> None:
    assert Placement(env=[{"name": "A", "value": "1"}]).without("/x") == Placement(
        volumes=[], volume_mounts=[], env=[{"name": "A", "value": "1"}]
    )
