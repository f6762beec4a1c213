"""docs/mutants.md: how many changed lines the tests notice, and which they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutants.listed import ROOT, Mutant

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "mutants.md"

_HEAD = """\
<!-- Made by `make mutants` from tests/mutants/: run it again, do not edit this page. -->
# Do the tests bite?

A test that passes whatever the code does tells nothing. So key lines of methods, merges, edits and selections are
changed on purpose, one at a time, in a copy of the package, and the method's own tests are run: with `make mutants`
(`python -m tests.mutants METHOD` for one). The lines are listed with what each becomes in `tests/mutants/lines/`;
every method has at least two. A line that may be changed without a test that notices has survived.

"""


def page(every: Sequence[Mutant], results: Mapping[str, str]) -> str:
    """The page, from the mutants listed and what became of each by its key ("killed" or "survived")."""
    tried = [m for m in every if m.key in results]
    left = [m for m in tried if results[m.key] == "survived"]
    methods = sorted({m.method for m in every})
    out = [
        _HEAD,
        f"**{len(left)} of {len(tried)} changed lines survived**, in {len(methods)} methods; ",
        f"{len(every) - len(tried)} listed lines have not been tried.\n\n",
    ]
    if left:
        out.append("## Survivors\n\n| method | what the change breaks | line |\n| --- | --- | --- |\n")
        out += [f"| {m.method} | {m.breaks} | `{m.line.replace('|', chr(92) + '|')}` |\n" for m in left]
        out.append("\n")
    out.append("## By method\n\n| method | lines | survived | tests |\n| --- | ---: | ---: | --- |\n")
    for name in methods:
        own = [m for m in every if m.method == name]
        survived = sum(results.get(m.key) == "survived" for m in own)
        tests = ", ".join(f"[{Path(t).name}](../{t})" for t in own[0].tests)
        out.append(f"| {name} | {len(own)} | {survived} | {tests} |\n")
    return "".join(out)
