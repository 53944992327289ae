"""The stand-in of a Kubeflow server, for the tests of `ctbasis submit`."""

from tests.kubeflow.conftest import alone, server

__all__ = ["alone", "server"]
