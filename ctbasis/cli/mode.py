"""The rule of `--mode auto`: which mode a command line means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.choices import AUTO
from ctbasis.cli.options import absolute, given_parameters
from ctbasis.errors import CtbasisError
from ctbasis.parameters import GlobalMode, PatchMode
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

OPTIONS_OF_MODE: dict[str, dict[str, str]] = {
    "global": {parameter.name: parameter.flag for parameter in GlobalMode.parameters()},
    "patch": {parameter.name: parameter.flag for parameter in PatchMode.parameters()},
}
"""Options that only one mode uses: their names and their flags, by mode."""

OTHER = {"global": "patch", "patch": "global"}
"""The other mode of each."""

BASIS_OF_MODE = {"global": "slices", "patch": "patches"}
"""What the basis of each mode is a basis of."""


@dataclass(frozen=True)
class ResolvedMode:
    """A mode and the reason for it.

    Attributes:
        mode: `global` or `patch`.
        reason: Why `auto` chose it; empty if the user named the mode.
    """

    mode: str
    reason: str = ""

    @property
    def line(self) -> str:
        """One line for standard error; empty if the user named the mode."""
        return f"mode: auto chose {self.mode}, because {self.reason}" if self.reason else ""


def resolve_mode(mode: str, given: Collection[str], *, basis_mode: str = "") -> ResolvedMode:
    """Resolve `--mode` into `global` or `patch`.

    `auto` means global mode if an option of global mode or the basis of a global run is given, and patch mode
    otherwise. Global mode at a fixed rank removes anatomy from an ordinary series, and is therefore never chosen unless
    an option asks for it.

    Args:
        mode: `auto`, `global` or `patch`.
        given: Names of the parameters that the user gave explicitly, as in `ctbasis.parameters`.
        basis_mode: Mode of the run that made the given basis; empty without a basis.

    Raises:
        CtbasisError: An option or the basis belongs to the other mode.
    """
    flags = {
        name: [flag for option, flag in options.items() if option in given] for name, options in OPTIONS_OF_MODE.items()
    }
    if mode != AUTO:
        reason, resolved = f"--mode is {mode}", ResolvedMode(mode)
    elif basis_mode:
        reason = f"the basis is a basis of {BASIS_OF_MODE[basis_mode]}"
        resolved = ResolvedMode(basis_mode, reason)
    elif flags["global"]:
        reason = _given(flags["global"])
        resolved = ResolvedMode("global", f"{reason}, which only global mode uses")
    else:
        reason = "no option of global mode is given, such as --rank; --mode global is the talk's method"
        resolved = ResolvedMode("patch", reason)
    conflicting = flags[OTHER[resolved.mode]]
    if conflicting:
        # A basis fixes the mode; otherwise the user can keep either set of options.
        kept = [] if basis_mode else flags[resolved.mode] if mode == AUTO else [f"--mode {mode}"]
        raise _conflict(conflicting, OTHER[resolved.mode], reason, kept)
    return resolved


def with_mode(mode: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run on this machine with its mode and with the absolute place of its basis.

    What `auto` chose is said on standard error.

    Args:
        mode: The option `--mode`.
        parameters: The other parameters of the pipeline by name.

    Raises:
        CtbasisError: An option or the basis belongs to the other mode, or there is no basis at its place.
    """
    basis = absolute(parameters["basis"])
    resolved = resolve_mode(mode, given_parameters(), basis_mode=mode_of_basis(basis) if mode == AUTO else "")
    if resolved.line:
        say(resolved.line)
    return {**parameters, "mode": resolved.mode, "basis": basis}


def mode_of_basis(basis: str) -> str:
    """Return the mode of the run that made `basis`, an empty string without a basis."""
    if not basis:
        return ""
    from ctbasis.patch.bases import kind_at

    return kind_at(basis)


def _conflict(flags: list[str], mode: str, reason: str, kept: list[str]) -> CtbasisError:
    """Return the error for options of `mode` where another mode was chosen for `reason`."""
    listed = " and ".join(flags)
    alternative = f", or leave out {' and '.join(kept)} to run in {mode} mode" if kept else ""
    return CtbasisError(
        f"{_given(flags)}, and {reason}",
        expected="options of one mode",
        cause=f"only {mode} mode uses {listed}",
        remedy=f"leave out {listed}{alternative}",
    )


def _given(flags: list[str]) -> str:
    return f"{' and '.join(flags)} {'is' if len(flags) == 1 else 'are'} given"
