"""Options of the verbs: in groups by what they concern, a short page of help and the whole one.

`--help` shows the options that a first-time user needs, one line each. `--help-all` shows every option with its whole
help. Both come from the same declarations.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import cloup
from click.core import ParameterSource
from cloup.formatting import HelpSection, ensure_is_cloup_formatter

from ctbasis.choices import AUTO
from ctbasis.errors import CtbasisError
from ctbasis.parameters import MODE, PARAMETERS
from ctbasis.plans import Group, Parameter
from ctbasis.printable import printable
from ctbasis.storage.paths import absolute_path, refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

STREAMS = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr"})
"""Devices that results may be written to."""


class PathType(click.Path):
    """A path of a regular file, of a folder, or of something that does not exist yet.

    A pipe or a device, which a verb could read for ever, and a text that no path can be are refused as bad values.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; refuse a bad one by `click.BadParameter`."""
        try:
            path = Path(value)
            path.resolve()
            special = path.exists() and not (path.is_file() or path.is_dir())
        except (OSError, RuntimeError, ValueError) as error:
            # A NUL, a name that is too long, or a circle of symbolic links.
            self.fail(f"{printable(str(value)[:100])} is no path ({type(error).__name__})", param, ctx)
        if special and str(value) not in STREAMS:
            self.fail(f"{printable(value)} is a pipe or a device, not a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


class OutputType(PathType):
    """A path that a verb writes late: one at which nothing can be written is refused before the work for it starts.

    Args:
        folder: Whether the verb writes a folder there, in place of a file.
    """

    def __init__(self, *, folder: bool) -> None:
        super().__init__(path_type=Path)
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; refuse a bad one by `click.BadParameter`."""
        path = super().convert(value, param, ctx)
        if str(value) in STREAMS and not self.folder:
            return path
        try:
            refuse_unwritable(path, folder=self.folder)
        except CtbasisError as error:
            self.fail(str(error), param, ctx)
        return path


PATH = PathType(path_type=Path)

OUTPUT_FILE = OutputType(folder=False)
OUTPUT_FOLDER = OutputType(folder=True)
"""Files and folders that a verb writes when its work is done."""

ESSENTIAL: dict[str, str] = {
    "truth": "Clean copy of the same series, to score the result against.",
    "mode": "global (the talk's method) or patch (ordinary CT).",
    "basis": "Stored basis to apply, the `basis/` of another run.",
    "seed": "Seed of the random numbers; -1 draws one.",
    "rank": "Global mode: number of basis vectors to keep, or auto.",
    "engine": "What computes the SVD; auto chooses.",
    "deidentify": "De-identify before anything is stored.",
}
"""Pipeline parameters that the short page shows, and one line about each."""

SHOW_ALL = "ctbasis.cli.show_all"
"""Key of click's `Context.meta` that is set while the whole page is made."""


class VerbOption(cloup.Option):
    """An option with a short help beside the whole one.

    Args:
        *declarations: As of `click.Option`.
        short: One line for the short page; without it the first sentence of `help`.
        essential: Whether the short page shows the option.
        **settings: As of `click.Option`.
    """

    def __init__(self, *declarations: Any, short: str = "", essential: bool = False, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.short = short
        self.essential = essential

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's row of the help page: with the whole help on the whole page, else with the short one."""
        if ctx.meta.get(SHOW_ALL) or not self.help:
            return super().get_help_record(ctx)
        brief = copy.copy(self)
        brief.help = self.short or first_sentence(self.help)
        return super(VerbOption, brief).get_help_record(ctx)


class Verb(cloup.Command):
    """A command with many options: `--help` shows the essential ones, `--help-all` shows all of them."""

    def format_params(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; on the short page only the essential ones, and how many more there are."""
        if ctx.meta.get(SHOW_ALL):
            super().format_params(ctx, formatter)
            return
        formatter = ensure_is_cloup_formatter(formatter)
        arguments = self.get_arguments_help_section(ctx)
        sections = [arguments] if arguments else []
        shown = 0
        for group in self.option_groups:
            essential = [option for option in group if isinstance(option, VerbOption) and option.essential]
            rows = [row for option in essential if (row := option.get_help_record(ctx))]
            if rows:
                sections.append(HelpSection(heading=group.title, definitions=rows))
                shown += len(rows)
        formatter.write_many_sections(sections)
        hidden = sum(len(group) for group in self.option_groups) - shown
        formatter.write(f"\n{hidden} more options: {ctx.command_path} --help-all\n")


def verb(name: str | None = None) -> Callable[[Callable[..., Any]], Verb]:
    """Return a decorator that makes a function a `Verb`, with `--help-all` as the whole page of help."""

    def decorate(function: Callable[..., Any]) -> Verb:
        help_all = cloup.option(
            "--help-all",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_all,
            help="Show every option with its whole help and exit.",
        )
        return cloup.command(name, cls=Verb)(help_all(function))

    return decorate


def _print_all(ctx: click.Context, _param: click.Parameter, value: object) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[SHOW_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def first_sentence(text: str) -> str:
    """Return the first sentence of `text`; a full stop inside parentheses or an abbreviation ends none."""
    head, stop, _ = text.partition(". ")
    return f"{head}." if stop else text


SOURCE_HELP = "A folder, zip archive, DICOMDIR or URI of docs/reference/sources.md."
"""Help of the argument SOURCE of every verb that reads images."""

SERVER = "Kubeflow server"

TITLES = (SERVER, *(group.value for group in Group))
"""Titles of the groups of options, in the order of the help pages."""


@dataclass(frozen=True)
class Declared:
    """A declared option and its group.

    Attributes:
        title: Title of the group, one of `TITLES`.
        option: Decorator that adds the option to a function.
    """

    title: str
    option: Callable[[Any], Any]


def own_option(group: Group | str, *declarations: str, **settings: Any) -> Declared:
    """Declare an option of one verb that is no parameter of the pipeline.

    Args:
        group: What it concerns: a group of parameters, or one of `TITLES`.
        *declarations: Flags and name, as of `click.option`.
        **settings: As of `VerbOption`.
    """
    title = group.value if isinstance(group, Group) else group
    return Declared(title, cloup.option(*declarations, cls=VerbOption, **settings))


def parameter_option(parameter: Parameter[Any], **settings: Any) -> Declared:
    """Declare the option of a pipeline parameter.

    Args:
        parameter: The parameter; its name, default, choices and help are the option's.
        **settings: Settings of `click.Option` that differ from those.
    """
    # A switch that is on by default is turned off by its negation.
    negated = f"{parameter.flag}/--no-{parameter.flag.removeprefix('--')}"
    declared: dict[str, Any] = {
        "is_flag": parameter.type is bool,
        "type": click.Choice(parameter.choices) if parameter.choices else parameter.type,
        "default": parameter.default,
        "show_default": parameter.default not in {"", False},
        "help": parameter.help,
        "metavar": parameter.metavar,
        "callback": _validation_of(parameter),
        "essential": parameter.name in ESSENTIAL,
        "short": ESSENTIAL.get(parameter.name, ""),
    }
    if settings.get("required"):
        # click takes any default, also None, for a value.
        del declared["default"]
    flag = negated if parameter.default is True else parameter.flag
    return own_option(parameter.group, flag, parameter.name, **{**declared, **settings})


def _validation_of(parameter: Parameter[Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that refuses a value at once, with a message that names the option."""

    def validate(context: click.Context, option: click.Parameter, value: Any) -> Any:
        if context.get_parameter_source(parameter.name) == ParameterSource.DEFAULT:
            return value
        try:
            return parameter.validate(value)
        except CtbasisError as error:
            raise click.BadParameter(str(error), context, option) from error

    return validate


def parameter_options(
    *, but: Sequence[Parameter[Any]], essential: Collection[str] = tuple(ESSENTIAL)
) -> list[Declared]:
    """Declare the options of every pipeline parameter except `but`.

    Args:
        but: Parameters that the verb declares differently.
        essential: Names of the parameters that the short page shows, of `ESSENTIAL`.
    """
    return [
        parameter_option(parameter, essential=parameter.name in essential)
        for parameter in PARAMETERS
        if parameter not in but
    ]


def where_option(what: str) -> Declared:
    """Declare `--where`, an expression that selects series by the columns of their inventory.

    Args:
        what: What the verb does with the series, such as `Denoise`.
    """
    return own_option(
        Group.SOURCE,
        "--where",
        default="",
        metavar="EXPRESSION",
        essential=True,
        help=f"{what} only the series for which an expression on the columns of `ctbasis inventory` is true, such as "
        '\'modality == "CT" and slices > 40 and kernel =~ "B.*f"\'.',
        short="Select series by an expression on the columns of `ctbasis inventory`.",
    )


def mode_option() -> Declared:
    """Declare `--mode`, which on the command line has the value `auto` besides, as its default."""
    return parameter_option(
        MODE,
        type=click.Choice((AUTO, *MODE.choices)),
        default=AUTO,
        callback=None,
        help=f"{AUTO}: global mode if an option of global mode or the basis of a global run is given, else patch mode; "
        f"one line on standard error says which and why. {MODE.help}",
    )


def grouped(*options: Declared) -> Callable[[F], F]:
    """Return a decorator that gives a verb these options, in groups in the order of `TITLES`."""

    def decorate(function: F) -> F:
        for title in reversed(TITLES):
            members = [one.option for one in options if one.title == title]
            if members:
                function = cloup.option_group(title, *members)(function)
        return function

    return decorate


def given_parameters() -> set[str]:
    """Return the names of the parameters that the user gave to the running command, in contrast to defaults."""
    context = click.get_current_context()
    return {
        name for name in context.params if context.get_parameter_source(name) not in {None, ParameterSource.DEFAULT}
    }


def absolute(place: str) -> str:
    """Return a folder as an absolute path, for steps that run in another folder; a URI or an empty string unchanged."""
    if "://" in place or not place:
        return place
    return str(absolute_path(place))
