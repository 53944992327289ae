"""The rule of `--mode auto`: which mode a command line means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.choices import AUTO
from ctbasis.errors import CtbasisError
from ctbasis.parameters import GlobalMode, PatchMode

if TYPE_CHECKING:
    from collections.abc import Collection

OPTIONS_OF_MODE: dict[str, dict[str, str]] = {
    "global": {parameter.name: parameter.flag for parameter in GlobalMode.parameters()},
    "patch": {parameter.name: parameter.flag for parameter in PatchMode.parameters()},
}
"""Options that only one mode uses: their names and their flags, by mode."""

OTHER = {"global": "patch", "patch": "global"}

BASIS_OF_MODE = {"global": "slices", "patch": "patches"}
"""What the basis of each mode is a basis of."""


@dataclass(frozen=True)
class ResolvedMode:
    """A mode and the reason for it.

    Attributes:
        mode: `global` or `patch`.
        reason: Why `auto` chose it; empty where the user named the mode.
    """

    mode: str
    reason: str = ""

    @property
    def line(self) -> str:
        """One line for standard error; empty where the user named the mode."""
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
        resolved, source = ResolvedMode(mode), f"--mode is {mode}"
    elif basis_mode:
        source = f"the basis is a basis of {BASIS_OF_MODE[basis_mode]}"
        resolved = ResolvedMode(basis_mode, source)
    elif flags["global"]:
        source = f"{_listed(flags['global'])} given"
        resolved = ResolvedMode("global", f"{source}; patch mode has no rank")
    else:
        source = "no option of global mode is given"
        resolved = ResolvedMode("patch", f"{source}, such as --rank; --mode global is the talk's method")
    other = OTHER[resolved.mode]
    if flags[other]:
        remedy = f"leave out {' and '.join(flags[other])}"
        if not basis_mode:
            conflicting = flags[resolved.mode] if mode == AUTO else [f"--mode {mode}"]
            remedy += f", or leave out {' and '.join(conflicting)} to run in {other} mode"
        raise CtbasisError(
            f"{_listed(flags[other])} given, and {source}",
            expected=f"options of {resolved.mode} mode",
            cause=f"{' and '.join(flags[other])} {_only(flags[other])} used in {other} mode",
            remedy=remedy,
        )
    return resolved


def _listed(flags: list[str]) -> str:
    return f"{' and '.join(flags)} {'is' if len(flags) == 1 else 'are'}"


def _only(flags: list[str]) -> str:
    return "is only" if len(flags) == 1 else "are only"
