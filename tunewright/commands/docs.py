"""Pages of docs/ that are made (recipe, contract, exit codes, JSON, methods, papers, tasks, packs); packs' READMEs.

Made from types, slots, verbs, methods and cards: `python -m tunewright.commands.docs` writes them into docs/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunewright.catalogue.annotations import bounds, inner_types, type_name
from tunewright.catalogue.slot_pages import contract_page
from tunewright.commands.choosing_page import choosing_page
from tunewright.commands.cli import CODES
from tunewright.commands.json_page import json_page
from tunewright.commands.methods_page import methods_page
from tunewright.commands.packs_page import packs_page, readme
from tunewright.commands.tasks_page import tasks_page
from tunewright.measure.pack import SHIPPED, shipped
from tunewright.papers.page import papers_page
from tunewright.recipe import Recipe
from tunewright.recipe.adapters import AdapterSpec
from tunewright.recipe.fields import Spec

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from the types: change them, not this file. -->
# The recipe

The one file a user writes. Only `model`, `task`, `data.train` and `methods` (or `stages`, or `adapters`) must be
there, and of stages that all name their own rows `data.train` may be left out: it is the last one's; a run writes every
default into its own `recipe.yaml`. Unknown keys are errors. `tunewright schema` prints a JSON Schema, so that editors
complete the file.

- **Numbers** may be written `16k`, `2M`, `1e6`, `2e-4`, `10%` (k is a thousand).
- **One thing or a list**: where a list is expected, one thing may stand alone.
- **Short forms**: `model: NAME` is `model: {name: NAME}`, `train: FILE` is `train: [{path: FILE}]`, `lora` is a
  method without parameters and
  `{lora: {rank: 16}}` one with.
- **Top-level `methods` and `budget`** mean one stage named `main`.
- **Paths** start from the recipe's folder.
- **Flags override the file**: `--set train.seed=1`, `--set stages.0.budget.steps=24`.

```yaml
model: smollm2-135m-instruct
task: text-generation
data: {train: tickets.jsonl, eval: tickets-test.jsonl}
keep: general.txt
train: {learning_rate: 2e-4, batch_tokens: 16k}
methods: [{lora: {rank: 16}}]
budget: {tokens: 2M}
```

**A sequence of tasks** is one line, `tasks`, beside `methods` and `budget`: files, or a column that cuts the data.
[The page on sequences](continual.md) says what it may hold and what the report then shows.

```yaml
model: minilm-l6
task: text-classification
data: {train: tickets.jsonl, eval: tickets-test.jsonl}
tasks: {by: label, count: 5}
methods: [lora]
budget: {epochs: 1}
```

Where tasks differ in more than their rows, they are stages. `each` makes a stage of every item, and each goes on from
where the one before it ended (`each: {of: [...], start: base}`: each from the base). An item is a file, or a mapping of
keys of `data`. A stage is called by its item's `name`, else by its file without folder and ending (`account`, below):
the entry itself has none. Later stages name it so, as `stages.account`, in `start` and `replay`.

```yaml
model: smollm2-135m-instruct
task: text-generation
data: {train: account.jsonl, eval: [account-test.jsonl, billing-test.jsonl]}
stages:
  - each: [account.jsonl, {name: bills, train: billing.jsonl, replay: {stages.account: 0.2}}]
    methods: [lora]
    budget: {epochs: 1}
  - {name: returns, data: {train: returns.jsonl}, methods: [lora], budget: {epochs: 1}}
```

**Several adapters over one base** are trained at once, each with its own data, seed and rate, where `adapters` lists
them in the place of `stages`; all else is common to them. [The page on adapters](adapters.md) says what comes out.

```yaml
model: smollm2-135m-instruct
task: text-generation
data: {eval: tickets-test.jsonl}
adapters:
  - {name: fee, methods: [{lora: {rank: 8}}], data: [fee.jsonl], seed: 1, train: {learning_rate: 5e-4}}
  - {name: tone, methods: [ia3], data: [tone.jsonl]}
```
"""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, Spec):
        dumped = value.model_dump()
        return f"`{dumped}`" if isinstance(dumped, str) else "its defaults"
    return f"`{json.dumps(value)}`"


def _example(name: str, field: FieldInfo) -> str:
    value = (field.examples or [None])[0]
    return f"`{name}: {value if isinstance(value, str) and _stands_bare(value) else json.dumps(value)}`"


def _stands_bare(value: str) -> bool:
    """Whether a text may be written into a recipe without quotes."""
    try:
        return bool(yaml.safe_load(f"key: {value}") == {"key": value}) or value == str(yaml.safe_load(value))
    except yaml.YAMLError:
        return False


def _row(name: str, field: FieldInfo) -> str:
    kind = type_name(field.annotation).replace("|", "\\|")
    allowed = bounds(field)
    cells = [
        f"`{name}`",
        kind + (f", {allowed}" if allowed else ""),
        _default(field),
        (field.description or "").replace("|", "\\|"),
        _example(name, field),
    ]
    return "| " + " | ".join(cells) + " |"


def _table(spec: type[Spec]) -> str:
    lines = [
        "| key | type | default | what | example |",
        "| --- | --- | --- | --- | --- |",
        *(_row(n, f) for n, f in spec.model_fields.items()),
    ]
    also = ", ".join(f"`{old}` for `{new}`" for old, new in spec.also.items())
    return "\n".join(lines) + (f"\n\nAlso read: {also}." if also else "")


def recipe_page() -> str:
    """The reference of the recipe: a table a part."""
    parts: dict[type[Spec], str] = {Recipe: "recipe", AdapterSpec: "adapters"}
    queue: list[type[Spec]] = [Recipe]
    while queue:
        spec = queue.pop(0)
        for name, field in spec.model_fields.items():
            for kind in inner_types(field.annotation):
                if (
                    isinstance(kind, type)
                    and issubclass(kind, Spec)
                    and kind not in parts
                    and not kind.__name__.endswith("Override")
                    and kind.__name__ != "MethodUse"
                ):
                    parts[kind] = name
                    queue.append(kind)
    sections = [f"## {name}\n\n{(spec.__doc__ or '').strip()}\n\n{_table(spec)}\n" for spec, name in parts.items()]
    return _HEAD + "\n" + "\n".join(sections)


def command_page() -> str:
    """The verbs' exit codes."""
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in CODES)
    return (
        "<!-- Made by `python -m tunewright.commands.docs`: change tunewright/commands/cli.py, not this file. "
        "-->\n# Exit codes\n\n"
        "Every verb prints one message on standard error when something is wrong: where, what, and what to write "
        "instead. `--json` prints results as "
        "JSON on standard output; messages stay on standard error.\n\n| code | meaning |\n| --- | --- |\n" + rows + "\n"
    )


PAGES: dict[str, Callable[[], str]] = {
    "recipe.md": recipe_page,
    "contract.md": contract_page,
    "exit-codes.md": command_page,
    "json.md": json_page,
    "methods.md": methods_page,
    "papers.md": papers_page,
    "tasks.md": tasks_page,
    "packs.md": packs_page,
    "choosing.md": choosing_page,
}
"""File name under docs/ -> what makes its text."""


def main(folder: Path) -> None:
    """Write the pages, and the READMEs of the packs that ship."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    for name in shipped():
        (SHIPPED / name / "README.md").write_text(readme(name), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))
