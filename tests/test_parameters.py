"""A parameter is declared once, is validated when a plan is constructed, and crosses processes as one JSON value."""

from __future__ import annotations

import inspect
import json
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from components.inventory.component import inventory
from components.svd.component import svd
from ctbasis.choices import COMPRESSIONS, ENGINES, RETAIN_OPTIONS, UNCOMPRESSED
from ctbasis.dicom.compression import SYNTAXES
from ctbasis.dicom.deidentify.profile import CODES
from ctbasis.errors import CtbasisError
from ctbasis.parameters import (
    NOT_OF_A_COHORT,
    PARAMETER,
    PARAMETERS,
    PLANS,
    CohortOptions,
    DeidentificationPlan,
    GlobalMode,
    OutputPlan,
    PatchMode,
    SvdPlan,
    check,
)
from ctbasis.plans import Group, ParameterPlan, parameter
from ctbasis.svd import engines
from pipeline.cohort import cohort
from pipeline.denoise import denoise


@dataclass(frozen=True)
class Inner(ParameterPlan):
    share: float = parameter(0.5, "A share.", group=Group.OUTPUT, least=0.0, most=1.0)


@dataclass(frozen=True)
class Outer(ParameterPlan):
    count: int = parameter(3, "A count.", group=Group.OUTPUT, least=1)
    flag: bool = parameter(False, "A flag.", group=Group.OUTPUT)
    inner: Inner = field(default_factory=Inner)


def test_every_parameter_has_a_help_text_a_group_and_a_valid_default() -> None:
    for one in PARAMETERS:
        assert one.help.endswith((".", ")")), one.name
        assert isinstance(one.group, Group)
        assert one.validate(one.default) == one.default


def test_every_parameter_is_declared_once() -> None:
    names = [name for plan in PLANS for name in plan.names()]
    assert len(names) == len(set(names)) == len(PARAMETERS) == len(PARAMETER)


def test_the_class_attribute_is_the_default_for_signatures() -> None:
    for plan in (*PLANS, GlobalMode, PatchMode):
        for one in plan.parameters():
            if one.name in vars(plan):
                assert getattr(plan, one.name) == one.default


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_survives_json(plan: type[ParameterPlan]) -> None:
    assert plan.from_json(plan().to_json()) == plan()


def test_json_is_one_flat_object_without_adjacent_braces() -> None:
    text = SvdPlan.of(tau=2.5, rank="auto:noise=12").to_json()
    assert "{{" not in text
    assert "}}" not in text
    assert set(json.loads(text)) == set(SvdPlan.names())


def test_parameters_of_contained_plans_are_given_and_read_by_name() -> None:
    plan = Outer.of(count=7, share=0.25)
    assert (plan.count, plan.inner.share) == (7, 0.25)
    assert plan.values() == {"count": 7, "flag": False, "share": 0.25}
    assert plan.replaced(share=1.0) == Outer(7, False, Inner(1.0))
    assert Outer.names() == ("count", "flag", "share")


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SvdPlan().seed = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, r"count is 0\n  expected: a whole number, at least 1"),
        ({"count": "3"}, r"count is '3'\n  expected: a whole number"),
        ({"count": 3.0}, r"count is 3.0\n  expected: a whole number"),
        ({"count": True}, r"count is True\n  expected: a whole number"),
        ({"flag": 1}, r"flag is 1\n  expected: true or false"),
        ({"share": 1.5}, r"share is 1.5\n  expected: a number from 0 to 1"),
        ({"share": float("nan")}, r"share is nan\n  expected: a number from 0 to 1"),
        ({"share": float("inf")}, r"share is inf\n  expected: a number from 0 to 1"),
        ({"share": None}, r"share is None\n  expected: a number from 0 to 1"),
        ({"conut": 3}, r"parameter 'conut' is unknown to Outer\n  expected: some of count, flag, share"),
    ],
)
def test_a_wrong_value_is_refused_on_construction_and_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CtbasisError, match=f"^{message}"):
        Outer.of(**values)


def test_a_whole_number_is_accepted_for_a_float_and_gives_the_same_json() -> None:
    assert Inner(1).to_json() == Inner(1.0).to_json() == '{"share": 1.0}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"count": 3, "flag": false}', "Outer lacks share"),
        ('{"count": 3, "flag": false, "share": 0.5, "more": 1}', "Outer has the unknown parameter more"),
        ('{"count": "3", "flag": false, "share": 0.5}', "count is '3'"),
        ('{"count": 0, "flag": false, "share": 0.5}', "count is 0"),
        ("[3]", r"Outer is \[3\]\n  expected: a JSON object"),
        ("{count: 3}", "Outer is no JSON"),
    ],
)
def test_json_of_another_version_or_form_is_refused_and_the_field_named(text: str, message: str) -> None:
    with pytest.raises(CtbasisError, match=message):
        Outer.from_json(text)


def test_a_missing_argument_is_refused_by_its_name() -> None:
    with pytest.raises(CtbasisError, match="Outer gets no share\n"):
        Outer.from_arguments({"count": 3, "flag": True, "workspace": "/w"})
    assert Outer.from_arguments({"count": 3, "flag": True, "share": 0.0, "workspace": "/w"}) == Outer(
        3, True, Inner(0.0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compress": "zip"}, "compress is 'zip'\n  expected: one of none, rle, jpeg-ls, jpeg2000"),
        ({"engine": "abacus"}, "engine is 'abacus'\n  expected: one of auto, mahout"),
        ({"mode": "auto"}, "mode is 'auto'\n  expected: one of global, patch"),
        ({"tau": 21.0}, "tau is 21.0\n  expected: a number from 0 "),
        ({"stride": 6}, "stride is 6\n  expected: a whole number from 1 to 5"),
        ({"target_noise": -1.0}, "target_noise is -1.0\n  expected: HU from 0"),
        ({"seed": -2}, "seed is -2\n  expected: a whole number from -1 to 1e\\+15"),
        ({"seed": 10**15 + 1}, "expected: a whole number from -1 to 1e\\+15"),
        (
            {"seed": 10**5000},
            "seed is a whole number of more than 40 digits\n  expected: a whole number from -1 to 1e\\+15",
        ),
        ({"oversample": -1}, "oversample is -1\n  expected: a whole number from 0 to 10000"),
        ({"oversample": 10_001}, "oversample is 10001\n  expected: a whole number from 0 to 10000"),
        ({"power_iters": 101}, "power_iters is 101\n  expected: a whole number from 0 to 100"),
        ({"rank": "many"}, "rank 'many'"),
        ({"ranks": ""}, "ranks is empty"),
        ({"memory": "much"}, "memory 'much'"),
        ({"store": "/disk"}, "expected: s3://bucket/prefix"),
        ({"retain": "uids"}, "retain is given, and deidentify is not"),
        ({"deidentify": True, "retain": "names"}, "retain names 'names'"),
        ({"deidentify": True, "retain": "full-dates,modified-dates"}, "expected: one of the two"),
        ({"colour": 1}, "parameter 'colour' is unknown"),
    ],
)
def test_arguments_that_a_step_would_refuse_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CtbasisError, match=message):
        check(arguments)


def test_valid_arguments_pass() -> None:
    check({"rank": "auto:energy=0.99", "ranks": "2,3", "memory": "3GiB", "store": "s3://bucket/prefix", "tau": 0})
    check({"deidentify": True, "retain": "uids,institution-identity", "compress": "rle"})


def test_seeds_and_memory_have_the_form_that_the_numerics_take() -> None:
    assert (SvdPlan().projection_seed, SvdPlan().sample_seed, SvdPlan().memory_bytes) == (None, 0, 0)
    plan = SvdPlan(seed=0, memory="2k")
    assert (plan.projection_seed, plan.sample_seed, plan.memory_bytes) == (0, 0, 2048)


def test_the_tables_of_the_rooms_have_the_rows_that_the_parameters_offer() -> None:
    assert list(engines.ENGINES) == list(ENGINES)
    assert (UNCOMPRESSED, *SYNTAXES) == COMPRESSIONS
    assert set(CODES) == set(RETAIN_OPTIONS)


def test_the_component_and_the_pipeline_have_an_input_for_every_parameter_of_the_svd_step() -> None:
    component = set(inspect.signature(svd.python_func).parameters)
    # `basis` is the name of the component's output artifact.
    lacking = {"stored_basis" if name == "basis" else name for name in SvdPlan.names()} - component
    assert not lacking, f"components/svd/component.py lacks {lacking}"
    lacking = set(PARAMETER) - set(inspect.signature(denoise.pipeline_func).parameters)
    assert not lacking, f"pipeline/denoise.py lacks {lacking}"
    of_a_cohort = {*PARAMETER, *CohortOptions.names()} - {*NOT_OF_A_COHORT}
    for function in (cohort.pipeline_func, inventory.python_func):
        lacking = of_a_cohort - set(inspect.signature(function).parameters)
        assert not lacking, f"{function.__name__} lacks {lacking}"


def test_deidentification_and_output_take_their_parameters_by_position() -> None:
    assert DeidentificationPlan(True, "uids").values() == {"deidentify": True, "retain": "uids"}
    assert OutputPlan("rle").compress == "rle"
