"""KFP component of the deploy step; the program is ctbasis/steps/deploy.py."""

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def deploy(served_model: str, registry: str, workspace: str, run: str, basis: dsl.Input[dsl.Model]) -> str:
    """Let a served model serve the basis of this run, and register it in a Model Registry.

    Args:
        served_model: inferenceservice/NAME or deployment/NAME in the namespace of the run.
        registry: Address of a Model Registry, empty for none.
        workspace: Root of the run's workspace.
        run: Id of the run, the name of the registered version.
        basis: Basis of the run.

    Returns:
        URI of the basis as the served model reads it.
    """
    from ctbasis.parameters import DeployPlan
    from ctbasis.steps.deploy import run_step
    from ctbasis.steps.notes import step_of_run

    with step_of_run("deploy", workspace):
        uri: str = run_step(DeployPlan(served_model, registry), basis.uri, basis.metadata, run=run)
    return uri
