"""The slots in words: `docs/contract.md`, and what `tunewright methods --slots` and `tunewright methods SLOT` print."""

from __future__ import annotations

import ast
import importlib.resources
from typing import Any

from tunewright.contract.slot import SLOTS, Slot

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from contract/slot.py and conformance/examples/: change them. -->
# The contract

A method is a class with typed fields and functions named after **slots**, the places in the life of a model where
methods plug in. A function names the arguments it wants out of those its slot offers; asking for another is an error
when the class is loaded, and so is a public name that is neither a slot, a declared hook nor a field. What each slot
offers, wants back and does with several methods stands below, with a method in a few lines that the tests run.
[Write a method](write-a-method.md) goes through a whole one; `tunewright methods SLOT` prints one section.

Letters in shapes: T tokens of a packed batch, R rows, S labels, V vocabulary or classes, D hidden size.

## Beside slots

{hooks}
"""


def example(slot: str) -> str:
    """The source of the method that shows a slot, without its module's docstring."""
    file = importlib.resources.files("tunewright") / "conformance" / "examples" / f"{slot}.py"
    source = file.read_text(encoding="utf-8")
    first = ast.parse(source).body[1]  # behind the docstring
    lines = source.split("\n")[first.lineno - 1 :]
    return "\n".join(line for line in lines if line != "from __future__ import annotations").strip()


def described(slot: str) -> dict[str, Any]:
    """One slot in JSON values: what it does, when, its arguments, what it gives, how several combine, an example."""
    s = SLOTS[slot]
    return {
        "name": s.name,
        "does": s.does,
        "when": s.when,
        "arguments": {n: s.argument(n) for n in s.offers},
        "gives": s.gives,
        "several": s.several,
        "training": s.training,
        "example": example(slot),
    }


def text(slot: str) -> str:
    """One slot as text for a terminal."""
    d = described(slot)
    width = max(len(n) for n in d["arguments"])
    lines = [f"{d['name']}  (slot)", d["does"], "", f"when:     {d['when']}", f"gives:    {d['gives']}"]
    lines += [f"several:  {d['several']}", "", "arguments that a function may name:"]
    lines += [f"  {n:<{width}}  {what}" for n, what in d["arguments"].items()]
    return "\n".join(
        [*lines, "", "an example:", "", *("  " + line if line else "" for line in d["example"].split("\n"))]
    )


def table() -> str:
    """All slots, one line each."""
    width = max(map(len, SLOTS))
    lines = [f"{s.name:<{width}}  {s.does}; several: {s.several}" for s in SLOTS.values()]
    return "\n".join([*lines, "", "`tunewright methods SLOT` says what one offers, wants back, and shows a method."])


def _section(slot: Slot) -> str:
    arguments = "\n".join(f"| `{n}` | {slot.argument(n).replace('|', chr(92) + '|')} |" for n in slot.offers)
    return (
        f"## {slot.name}\n\nA method here {slot.does}.\n\n- **Called**: {slot.when}.\n- **Gives**: {slot.gives}.\n"
        f"- **Several**: {slot.several}.\n\n| argument | type and shape |\n| --- | --- |\n{arguments}\n\n"
        f"```python\n{example(slot.name)}\n```\n"
    )


def contract_page() -> str:
    """docs/contract.md."""
    from tunewright.contract.class_check import READ_FIELDS
    from tunewright.contract.method import Method

    capabilities = (Method.__doc__ or "").split("\n\n", 1)[1]
    capabilities = "\n".join(line.removeprefix("    ") for line in capabilities.split("\n"))
    fields = "\n".join(f"- A field `{n}` {what}." for n, what in READ_FIELDS.items())
    hooks = [
        f"- `{n}`: {(getattr(Method, n).__doc__ or '').split(chr(10))[0]}"
        for n in ("needs", "setup", "caution", "save", "speakers", "stand_in", "makes", "found")
    ]
    beside = "\n".join([capabilities.strip(), "", "Functions that every method may define:", "", *hooks, fields])
    return _HEAD.format(hooks=beside) + "\n" + "\n".join(_section(s) for s in SLOTS.values())
