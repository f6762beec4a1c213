"""docs/claims.md: its tables are made from code and from committed results, and written between their marks.

`python -m tunewright.claims.page docs/claims.md` writes metrics, fields and verdicts; the figures of the rule take a
few minutes and are written by `python -m tunewright.claims.simulate --write docs/claims.md`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from tunewright.claims import claim as claims
from tunewright.claims import listing, metrics, results_io
from tunewright.claims.claim import Arm, Claim


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between its marks `<!-- name -->` and `<!-- /name -->`.

    ValueError when they are not there.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, there, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not there or not closed:
        raise ValueError(f"the page has no marks {begin} ... {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def fields() -> str:
    """The fields of a claim and of an arm."""
    lines = ["| field | default | what |", "| --- | --- | --- |"]
    for kind in (Claim, Arm):
        for name, field in kind.model_fields.items():
            default = "(must be given)" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
            lines.append(f"| `{'Arm.' if kind is Arm else ''}{name}` | {default} | {field.description} |")
    return "\n".join(lines)


def verdicts(results: Path | None = None) -> str:
    """Judged results that are shipped, a row per claim and scale."""
    judged = [r for r in listing.rows(claims.names(), results=results or results_io.SHIPPED) if r["status"] == "judged"]
    if not judged:
        return "No claim has been judged yet."
    counts = Counter(r["verdict"] for r in judged)
    lines = [
        (
            f"{len(judged)} results: {counts['holds']} hold, {counts['fails']} fail, {counts['unclear']} are unclear, "
            f"{counts['not tested']} tested nothing, each at the scale beside it. All seeds of a claim are judged "
            "on the same rows (200 to 400): what other rows would give is in no interval "
            "but of those that are judged over seeds and rows (seeds x rows, in the last column)."
        ),
        "",
    ]
    lines += [
        "| claim | scale | metric | verdict | Holm | effect [95 %] | d | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in judged:
        _, scale, word, corrected, effect, d, seeds, _, _ = listing.cells(r)
        lines.append(f"| `{r['claim']}` | {scale} | {r['metric']} | {word} | {corrected} | {effect} | {d} | {seeds} |")
    return "\n".join(lines)


def texts(results: Path | None = None) -> str:
    """What each claim that has a result says, and how its test differs from the paper's."""
    lines = []
    for name in claims.names():
        claim, judged = claims.load(name).claim, listing.rows([name], results=results or results_io.SHIPPED)
        words = [f"{r['verdict']} at scale {r['scale']}" for r in judged if r["status"] == "judged"]
        untested = "".join(f" *Not tested:* {r['reason']}." for r in judged if r["verdict"] == "not tested")
        if words:
            differs = f" *Differs:* {claim.differs.rstrip('.')}." if claim.differs else ""
            lines.append(f"- `{name}` ({', '.join(words)}): {claim.says}{untested}{differs}")
    return "\n".join(lines) or "None yet."


def filled(page: str) -> str:
    """The page with every table but the simulated one made anew."""
    for name, text in (
        ("metrics", metrics.table()),
        ("fields", fields()),
        ("verdicts", verdicts()),
        ("texts", texts()),
    ):
        page = between(page, name, text)
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/claims.md")
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
