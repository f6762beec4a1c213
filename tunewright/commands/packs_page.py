"""docs/packs.md and the READMEs of the packs that ship, made from the packs themselves and from the checkers."""

from __future__ import annotations

import json
from collections import Counter

from tunewright.measure.checkers import CHECKERS
from tunewright.measure.pack import FILE, Pack, PackInfo, PackRow, load_pack, shipped
from tunewright.recipe.naming import PACK
from tunewright.report.words import score

_MADE = "<!-- Made by `python -m tunewright.commands.docs` from the packs: change them, not this file. -->"
_HEAD = f"""{_MADE}
# Keep packs

A loss on general text does not say whether a tuned model still calls tools, refuses what it should or answers in the
language that it was asked in. A pack does: a few dozen questions, greedy answers of base and tuned model, and a rule
that says of each whether it is right. No model judges.

```yaml
keep:
  - general.txt
  - pack:tool-calls
  - {{data: pack:refusals, limit: 20}}
  - {{data: pack:./mine, name: house-style}}
gate: {{kept.tool-calls: no worse by 0.02}}
```

`tunewright measure A B --keep pack:tool-calls --keep style=pack:./mine` asks any two models. Of a pack's `limit`, the
first rows are taken; groups alternate in those that ship.

Each figure is the share of right answers with its interval, in all and by group; the change is paired by question
(McNemar's test, as for [any two models](measure.md)). Beside it stand the length of the answers in words and the share
of their runs of three words that they had said before, which are neither better nor worse. In a gate, higher is better.
Answers are in `rows.jsonl`, called by the pack. They are written by base and tuned model alone, not at strengths
between. Models of text generation are asked through their chat template, and without one in plain words, behind which
a base model may just go on writing; other tasks refuse packs.

## Packs that ship

"""
_COPY = f"""
## A pack of your own

Copy a folder of `tunewright/measure/packs/`, edit it, and name it by a path with a slash in it: `{PACK}./mine`.
`{FILE}` holds:

"""
_FLOOR = """
**Noise floor.** The same model, asked twice on one machine, gives the same answers to the bit. The floor is how many
right answers a change that teaches nothing may move: SmolLM2-135M-Instruct was asked in float32 and in bfloat16, and
the share of questions that were right in one of them alone, or one question where that is none, is the floor. A
smaller change is marked. Chance over questions is another thing, and stands in the interval: of 40 questions it is
wider than any floor here, so that a pack shows what breaks, and no fine differences.
"""


def packs_page() -> str:
    """The packs in a table, and what a pack holds."""
    packs = [load_pack(f"{PACK}{name}") for name in shipped()]
    rows = [f"| `{PACK}{p.name}` | {p.info.measures} | {len(p.rows)} | {_points(p)} | {p.info.limits} |" for p in packs]
    table = (
        "| pack | measures | questions | noise floor | what its rules cannot see |\n| --- | --- | ---: | ---: | --- |\n"
    )
    checkers = [f"| `{name}` | {_doc(name)} |" for name in CHECKERS]
    return (
        _HEAD
        + table
        + "\n".join(rows)
        + "\n"
        + _FLOOR
        + _COPY
        + _fields(PackInfo)
        + "\nEach line of its rows is a JSON object:\n\n"
        + _fields(PackRow)
        + "\n| checker | an answer is right where |\n| --- | --- |\n"
        + "\n".join(checkers)
        + "\n\nCalls of tools are read in the form that the model's chat template writes them in, found by asking it "
        "(JSON, with the name inside it or before it). Where a template shows no tools, they stand before the "
        "question, with a form of calls (Hermes'); a form that is none of JSON, tags for each argument and Python is "
        "refused.\n"
    )


def readme(name: str) -> str:
    """A pack's README."""
    pack = load_pack(f"{PACK}{name}")
    groups = Counter(row.group for row in pack.rows.values())
    of = ", ".join(f"{n} {group}" for group, n in groups.items())
    first = next(iter(pack.rows.values()))
    example = json.dumps(first.model_dump(exclude_defaults=True, exclude={"tools"}), ensure_ascii=False)
    return (
        f"{_MADE}\n# {name}\n\nMeasures {pack.info.measures}.\n\n"
        f"- questions: {len(pack.rows)} ({of}), answers of at most {pack.info.max_new_tokens} tokens\n"
        f"- licence: {pack.info.licence}\n- credit: {pack.info.credit}\n"
        f"- noise floor: {_points(pack)} ({pack.info.floor_from})\n- limits: {pack.info.limits}\n\n"
        f"A row:\n\n```json\n{example}\n```\n"
    )


def _points(pack: Pack) -> str:
    return f"{score(pack.info.floor, 'fraction').removesuffix(' %')} points"


def _fields(model: type[PackInfo] | type[PackRow]) -> str:
    lines = ["| key | what |", "| --- | --- |"]
    for name, field in model.model_fields.items():
        must = ", **required**" if field.is_required() else ""
        lines.append(f"| `{name}` | {field.description}{must} |")
    return "\n".join(lines) + "\n"


def _doc(name: str) -> str:
    """What a checker asks, in one line."""
    checker = CHECKERS[name]
    said = " ".join((checker.holds.__doc__ or f"{checker.says}.").split())
    return said[:1].upper() + said[1:]
