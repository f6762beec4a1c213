"""A name in a method class that nobody reads is refused when the class is loaded, with what was meant."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from tunewright.catalogue.resolve import _broken, build
from tunewright.contract.class_check import check_class
from tunewright.contract.method import Method
from tunewright.errors import MethodError, RecipeError
from tunewright.recipe.uses import MethodUse


def made(**body):
    """A method class that fills `schedule` and has some more names."""
    body = {"schedule": lambda self, step: 1.0, "__module__": __name__, "__doc__": "A method.", **body}
    return type("Made", (Method,), body)


def test_a_plain_class_is_accepted():
    check_class(made(_helper=lambda self: 1))


@pytest.mark.parametrize(
    ("name", "meant"), [("end_taks", "end_task"), ("atach", "attach"), ("setupp", "setup"), ("speaker", "speakers")]
)
def test_a_function_that_no_slot_calls_is_refused_with_the_nearest_name(name, meant):
    with pytest.raises(MethodError, match=f"'{name}', which is neither") as refusal:
        check_class(made(**{name: lambda self: None}))
    assert f"did you mean '{meant}'" in str(refusal.value)


def test_a_class_variable_that_nobody_reads_is_refused():
    cls = made(papres=("x",), __annotations__={"papres": ClassVar[tuple[str, ...]]})
    with pytest.raises(MethodError, match="'papres'") as refusal:
        check_class(cls)
    assert "'papers'" in str(refusal.value)


def test_a_helper_is_told_about_the_underscore():
    with pytest.raises(MethodError) as refusal:
        check_class(made(mix=lambda self: None))
    assert "underscore" in str(refusal.value)


def test_a_field_that_misspells_one_the_core_reads_is_refused():
    cls = made(wieght=Field(1.0, description="of the sum"), __annotations__={"wieght": float})
    with pytest.raises(MethodError, match="'wieght'") as refusal:
        check_class(cls)
    assert "'weight'" in str(refusal.value)


def test_a_familys_own_base_may_declare_names_for_its_methods():
    base = made(keep=lambda self: None)
    check_class(type("Child", (base,), {"keep": lambda self: 1, "__module__": __name__, "__doc__": "A method."}))


@pytest.mark.parametrize("beside", [["lora"], ("lora",), {"lora"}, {"lora": 2}])
def test_conformance_beside_must_map_names_to_parameters(beside):
    cls = made(conformance_beside=beside, __annotations__={"conformance_beside": ClassVar[object]})
    with pytest.raises(MethodError, match="conformance_beside"):
        check_class(cls)


def test_conformance_may_be_written_without_a_type():
    cls = made(conformance={"rank": 2}, conformance_beside={"lora": {"rank": 2}})
    check_class(cls)
    assert cls.conformance == {"rank": 2}


@pytest.mark.parametrize(("line", "advice"), [("limit = 3", "limit: int = Field(3"), ("table = {}", "ClassVar")])
def test_a_name_without_a_type_gets_the_advice_that_fits_its_value(line, advice):
    code = (
        f"from tunewright.contract import Method\nclass Bad(Method):\n    {line}\n    def schedule(self): return 1.0\n"
    )
    with pytest.raises(Exception) as raised:  # noqa: B017, PT011  (pydantic's own, which is explained below)
        exec(compile(code, "bad.py", "exec"), {"__name__": "bad"})
    assert advice in str(_broken("bad", raised.value))


def test_a_parameter_is_read_by_its_other_names_too():
    by_peft = build(MethodUse(name="lora", params={"r": 4, "lora_alpha": "2", "targets": ["q_proj"]}))
    assert by_peft == build(MethodUse(name="lora", params={"rank": 4, "alpha": 2, "target_modules": ["q_proj"]}))
    with pytest.raises(RecipeError, match="'targets' and 'target_modules' mean the same"):
        build(MethodUse(name="lora", params={"targets": ["q_proj"], "target_modules": ["k_proj"]}))
