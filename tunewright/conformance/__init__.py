"""One suite of checks for every method, ours and others': what a method declares, and that it holds.

On a name of a recipe, a class or an object:

    from tunewright.conformance import check_method
    check_method("lora")

As tests of one's own, one per check:

    @pytest.mark.parametrize("check", checks_of("my-method"), ids=str)
    def test_conformance(check):
        check()

As a pytest plugin, with no file at all (no `--method`: everything that a recipe may name):

    pytest -p tunewright.conformance --pyargs tunewright.conformance.suite --method my-method

A class may hold `conformance`: parameters for the tiny set-up where its defaults do not fit (a rank of 128 on a layer
of
32), and `conformance_beside`: methods by name, with parameters, that it cannot do without. Other values of a field come
from its type and from its `examples`. No check knows a method's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.conformance.case import Case, Check
    from tunewright.contract.method import Method


def all_checks() -> list[Check]:
    """Every check, in the order in which they are best read."""
    from tunewright.conformance import (
        adapting,
        declared,
        learned,
        making,
        reading,
        reshaping,
        rows,
        slots,
        training,
        weights,
    )

    special = [*reading.CHECKS, *making.CHECKS, *reshaping.CHECKS, *rows.CHECKS, *adapting.CHECKS]
    return [*declared.CHECKS, *training.CHECKS, *slots.CHECKS, *special, *weights.CHECKS, *learned.CHECKS]


@dataclass(frozen=True)
class BoundCheck:
    """A check of one method, ready to be called."""

    check: Check
    case: Case

    def __call__(self) -> None:
        self.check.run(self.case)

    def __str__(self) -> str:
        return f"{self.case.name}: {self.check.name}"


def checks_of(method: str | type[Method] | Method, **parameters: Any) -> list[BoundCheck]:
    """The checks that apply to a method. MethodError or RecipeError when it cannot be loaded or made."""
    from tunewright.conformance.case import Case

    case = Case.of(method, **parameters)
    return [BoundCheck(c, case) for c in all_checks() if c.applies(case)]


def check_method(method: str | type[Method] | Method, **parameters: Any) -> list[str]:
    """Run every check that applies; return their names.

    AssertionError of the first that does not hold, with its name.
    """
    names = []
    for bound in checks_of(method, **parameters):
        try:
            bound()
        except AssertionError as error:
            raise AssertionError(f"{bound}: {error}") from error
        names.append(bound.check.name)
    return names


def every_check() -> list[BoundCheck]:
    """The checks of everything that a recipe may name: a new file is covered on arrival."""
    from tunewright.catalogue import entries

    return [b for name in entries() for b in checks_of(name)]


# -- pytest ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: Any) -> None:
    """Add --method NAME (may be repeated)."""
    parser.addoption(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="check this method's conformance (default: every method)",
    )


def pytest_generate_tests(metafunc: Any) -> None:
    """Give a test that asks for `conformance_check` one call for each check of each method."""
    if "conformance_check" in metafunc.fixturenames:
        names = metafunc.config.getoption("--method", [])
        checks = [b for name in names for b in checks_of(name)] if names else every_check()
        metafunc.parametrize("conformance_check", checks, ids=str)
