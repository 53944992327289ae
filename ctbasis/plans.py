"""How a parameter is declared, and the typed, frozen plans that carry parameters from step to step.

A plan is a frozen dataclass whose fields are declared by `parameter()`:

    @dataclass(frozen=True)
    class PatchMode(ParameterPlan):
        tau: float = parameter(3.0, "Threshold in standard deviations of noise.", group=Group.PATCH_MODE, least=0)

The declaration is the only one: `ParameterPlan.parameters()` gives the command line and the documentation the name,
type, default, bounds and help text of each field. A plan is validated when it is constructed, so an invalid one does
not exist. It crosses from one process to another as one JSON value (`to_json`, `from_json`). A plan may contain other
plans; their parameters count as its own.
"""

from __future__ import annotations

import json
import math
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T", bound=str | int | bool | float)

DECLARATION = "ctbasis.parameter"
"""Key of a dataclass field's metadata under which its declaration stands."""

MOST_DIGITS = 40
"""Digits of a whole number that an error message prints, at most."""

TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Group(Enum):
    """What a parameter concerns; `--help` lists the options under these titles."""

    SOURCE = "Source"
    METHOD = "Method"
    GLOBAL_MODE = "Global mode"
    PATCH_MODE = "Patch mode"
    PLACE = "Where it runs"
    OUTPUT = "Output"
    DEIDENTIFICATION = "De-identification"
    SERVING = "Serving"


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """The declaration of one parameter.

    Attributes:
        name: Name in the compiled pipeline; `--like-this` on the command line.
        default: Value if the user gives none.
        help: What the parameter does, when to change it, and what that costs.
        group: What it concerns.
        least: Smallest value of a number.
        most: Largest value of a number.
        choices: All valid values, if they can be listed.
        expected: Description of valid values for error messages; derived from type and bounds if empty.
        metavar: Placeholder of the value in `--help`.
        parse: Function that refuses a text of the wrong form by a `CtbasisError`; its result is not used here.
    """

    name: str
    default: T
    help: str
    group: Group
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    expected: str = ""
    metavar: str | None = None
    parse: Callable[[str], object] | None = None

    @property
    def flag(self) -> str:
        """Option of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def type(self) -> type[T]:
        """Type of the values: str, int, bool or float."""
        return type(self.default)

    def validate(self, value: object) -> T:
        """Return `value` in the declared type; an integer is accepted for a float.

        Raises:
            CtbasisError: `value` has another type, is out of bounds, or is no choice.
        """
        accepted = (float, int) if self.type is float else self.type
        # bool is a subclass of int.
        mistaken = isinstance(value, bool) and self.type is not bool
        if mistaken or not isinstance(value, accepted) or not self._in_bounds(value):
            # Python refuses to print an int of thousands of digits.
            long = isinstance(value, int) and abs(value) >= 10**MOST_DIGITS
            found = f"a whole number of more than {MOST_DIGITS} digits" if long else repr(value)
            raise CtbasisError(f"{self.name} is {found}", expected=self.expected or self._bounds())
        value = self.type(value)
        if self.choices and value not in self.choices:
            raise CtbasisError(f"{self.name} is {value!r}", expected=f"one of {', '.join(self.choices)}")
        if self.parse is not None:
            self.parse(str(value))
        return value

    def _in_bounds(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return True
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        # An int is finite, and one beyond the largest float cannot be asked.
        return (isinstance(value, int) or math.isfinite(value)) and least <= value <= most

    def _bounds(self) -> str:
        kind = TYPE_NAMES[self.type]
        if self.least is not None and self.most is not None:
            return f"{kind} from {self.least:g} to {self.most:g}"
        return kind if self.least is None else f"{kind}, at least {self.least:g}"


def parameter(default: T, help: str, *, group: Group, **details: Any) -> T:  # noqa: A002 - argparse's and click's word
    """Declare a parameter as a field of a `ParameterPlan`.

    Args:
        default: Value if the user gives none; its type is the parameter's.
        help: What the parameter does, when to change it, and what that costs.
        group: What it concerns.
        details: Further attributes of `Parameter`: least, most, choices, expected, metavar, parse.
    """
    declaration = {"default": default, "help": help, "group": group, **details}
    return field(default=default, metadata={DECLARATION: declaration})


@dataclass(frozen=True)
class ParameterPlan:
    """Base of the plans: parameters that are validated together and travel together as one JSON value.

    Raises:
        CtbasisError: On construction, if a value has the wrong type, is out of bounds, or is no choice.
    """

    def __post_init__(self) -> None:
        for one in self._own_parameters():
            # A float given as an integer is stored as a float, so that equal plans have equal JSON.
            object.__setattr__(self, one.name, one.validate(getattr(self, one.name)))

    @classmethod
    def parameters(cls) -> tuple[Parameter[Any], ...]:
        """Return the declarations of all parameters, those of contained plans included, in the order of the fields."""
        declarations: list[Parameter[Any]] = []
        for one in fields(cls):
            contained = _contained_plan(one)
            if contained:
                declarations += contained.parameters()
            elif DECLARATION in one.metadata:
                declarations.append(_declaration(one))
        return tuple(declarations)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all parameters, those of contained plans included."""
        return tuple(one.name for one in cls.parameters())

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Construct a plan from parameters by name, wherever they stand in it; a parameter left out has its default.

        Raises:
            CtbasisError: A name is unknown or a value invalid.
        """
        unknown = sorted(values.keys() - set(cls.names()))
        if unknown:
            raise CtbasisError(
                f"parameter {', '.join(map(repr, unknown))} is unknown to {cls.__name__}",
                expected=f"some of {', '.join(cls.names())}",
            )
        arguments: dict[str, Any] = {}
        for one in fields(cls):
            contained = _contained_plan(one)
            if contained:
                arguments[one.name] = contained.of(
                    **{name: values[name] for name in contained.names() if name in values}
                )
            elif one.name in values:
                arguments[one.name] = values[one.name]
        return cls(**arguments)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Construct a plan from a function's arguments, `locals()`; names of no parameter are ignored.

        Raises:
            CtbasisError: A parameter is missing, because the function's signature lacks it, or a value is invalid.
        """
        missing = [name for name in cls.names() if name not in arguments]
        if missing:
            raise CtbasisError(
                f"{cls.__name__} gets no {', '.join(missing)}",
                expected="a value for each of its parameters",
                cause="the parameter was added to ctbasis/parameters.py and not to a signature",
                remedy="add it to the component's signature and to those in pipeline/",
            )
        return cls.of(**{name: arguments[name] for name in cls.names()})

    def values(self) -> dict[str, Any]:
        """Return the values of all parameters by name, those of contained plans included."""
        values: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, ParameterPlan):
                values |= value.values()
            elif DECLARATION in one.metadata:
                values[one.name] = value
        return values

    def replaced(self, **values: Any) -> Self:
        """Return a copy with other values for some parameters.

        Raises:
            CtbasisError: A name is unknown or a value invalid.
        """
        return type(self).of(**{**self.values(), **values})

    def to_json(self) -> str:
        """Return the values of all parameters as one flat JSON object.

        It is flat because YARN, Argo and KFP each give a meaning to two adjacent braces.
        """
        return json.dumps(self.values())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the plan that `to_json` wrote.

        Raises:
            CtbasisError: `text` is no JSON object, a parameter is missing or unknown, or a value is invalid.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CtbasisError(f"{cls.__name__} is no JSON ({error})", expected="what to_json writes") from error
        if not isinstance(values, dict):
            raise CtbasisError(f"{cls.__name__} is {values!r}", expected="a JSON object")
        names = cls.names()
        for problem, wrong in (
            ("lacks", [name for name in names if name not in values]),
            ("has the unknown parameter", [name for name in values if name not in names]),
        ):
            if wrong:
                raise CtbasisError(
                    f"{cls.__name__} {problem} {', '.join(wrong)}",
                    expected=f"the parameters {', '.join(names)}",
                    cause="the process that wrote the plan runs another version of ctbasis",
                    remedy="use images of one version for all steps",
                )
        return cls.of(**values)

    @classmethod
    def _own_parameters(cls) -> tuple[Parameter[Any], ...]:
        return tuple(_declaration(one) for one in fields(cls) if DECLARATION in one.metadata)


def _contained_plan(one: Field[Any]) -> type[ParameterPlan] | None:
    """Return the class of the plan that a field contains, None if the field is a parameter."""
    made_by: object = one.default_factory
    return made_by if isinstance(made_by, type) and issubclass(made_by, ParameterPlan) else None


def _declaration(one: Field[Any]) -> Parameter[Any]:
    return Parameter(name=one.name, **one.metadata[DECLARATION])
