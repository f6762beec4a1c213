"""One suite of checks for every method and one for every task, ours and others': what each declares, and that it holds.

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

A task is checked on an example, tiny things that are its like (`TaskExample`): `check_task("my-task", example)`, or
`checks_of_task`, one test a check. Tunewright's own tasks have theirs in `task_examples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.conformance.case import Case, Check
    from tunewright.conformance.task_case import TaskCase, TaskExample
    from tunewright.contract.method import Method
    from tunewright.contract.task import Task


def all_checks() -> list[Check[Case]]:
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
    """A check of one method or task, ready to be called."""

    check: Check[Any]
    case: Case | TaskCase

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
    return _called(checks_of(method, **parameters))


def _called(checks: Sequence[BoundCheck]) -> list[str]:
    for bound in checks:
        try:
            bound()
        except AssertionError as error:
            raise AssertionError(f"{bound}: {error}") from error
    return [bound.check.name for bound in checks]


def task_checks() -> list[Check[TaskCase]]:
    """Every check of a task, in the order in which they are best read."""
    from tunewright.conformance import task_outputs, task_rows, task_runs

    return [*task_rows.CHECKS, *task_outputs.CHECKS, *task_runs.CHECKS]


def checks_of_task(name: str, example: TaskExample | None = None, task: Task | None = None) -> list[BoundCheck]:
    """The checks that apply to a task on an example (of a built-in task: the package's own). `task`: another object
    than the one of the name. RecipeError where no task is called so.
    """
    from tunewright.conformance.task_case import TaskCase
    from tunewright.conformance.task_examples import example_of

    case = TaskCase(name, example if example is not None else example_of(name), task)
    return [BoundCheck(c, case) for c in task_checks() if c.applies(case)]


def check_task(name: str, example: TaskExample | None = None, task: Task | None = None) -> list[str]:
    """Run every check of a task that applies; return their names. AssertionError of the first that does not hold."""
    return _called(checks_of_task(name, example, task))


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
