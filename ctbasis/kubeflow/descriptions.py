"""The descriptions of a pipeline's parameters, which the form of the UI shows beside their names.

KFP reads them from the section Args of the pipeline's docstring. Written there by hand, they would be a second
declaration of the parameters.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctbasis.plans import Parameter

F = TypeVar("F", bound="Callable[..., Any]")


def described(parameters: Iterable[Parameter[Any]]) -> Callable[[F], F]:
    """Return a decorator that adds a description of each parameter to the docstring of a pipeline.

    Args:
        parameters: The declarations of the parameters.
    """

    def decorate(function: F) -> F:
        rows = [f"    {parameter.name}: {_text(parameter)}" for parameter in parameters]
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *rows])
        return function

    return decorate


def _text(parameter: Parameter[Any]) -> str:
    """Return the help of a parameter, with the choices that the form, in contrast to the command line, cannot show."""
    choices = f" One of: {', '.join(parameter.choices)}." if parameter.choices else ""
    return " ".join(parameter.help.split()) + choices
