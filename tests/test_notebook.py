"""examples/first_run.ipynb, executed from nothing, and what it shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "first_run.ipynb"


def shown(cell: Any, kind: str) -> str:
    """What a cell shows as one kind of content."""
    found = [o["data"].get(kind, "") for o in cell.outputs if "data" in o]
    return "\n".join(found)


def printed(cell: Any, name: str = "stdout") -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == name)


def test_it_is_committed_without_outputs() -> None:
    import json

    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code)


@pytest.mark.slow
def test_it_runs_and_shows_tables_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = {c.source: c for c in notebook.cells if c.cell_type == "code"}
    by = lambda start: next(c for s, c in cells.items() if s.startswith(start))  # noqa: E731
    assert "ok: a run would take this data" in shown(by("tunewright.check"), "text/html")
    assert "Estimate" in shown(by("tunewright.plan"), "text/html")
    ran = by("result = ")
    html = shown(ran, "text/html")
    assert "exact match" in html and "The change dialled down afterwards" in html and "<iframe" in html
    assert "training 'main'" in html.replace("&#x27;", "'") and "40/40" in html, "the bar, drawn to its end"
    assert "measuring the base" in printed(ran) and not printed(ran, "stderr")
    assert "exact_match" in printed(by("target = "))
    assert "hft" in shown(by("comparison = "), "text/html") and (tmp_path / "runs" / "first" / "report.html").is_file()
