"""A server answers with PEFT's other adapters as with low-rank ones: read from folders, side by side, at a strength."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.test_peft_forms import make
from tests.serve import serving
from tests.serve.test_same_answers import asked, ids, said
from tunewright.models import deltas as forms
from tunewright.models import peft_format
from tunewright.serve.server import Server

KINDS = ("dora", "output-scale", "vera", "hadamard", "kronecker", "rotation", "butterfly")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_type_is_served_from_its_folder(tmp_path: Path) -> None:
    for k, kind in enumerate(KINDS):
        adapted = serving.loaded().adapted()
        for i, site in enumerate(adapted.structure.linear_sites()):
            delta = make(kind, site, 10 * i + k)
            with_widths = isinstance(delta, forms.SharedProjections)
            forms.attach(site, "a", delta)
            assert not with_widths or delta.widths == (160, 160)  # type: ignore[attr-defined]
        peft_format.save_adapter(adapted, tmp_path / kind, serving.BASE)
    serving.write_adapters(tmp_path, ["low"])
    prompt = serving.PROMPTS[0]
    with Server(serving.loaded(), serving.BASE, tmp_path) as server:
        names = [*KINDS, "low", "dora@0.5", "rotation@0.5", serving.BASE]
        handles = {n: asked(server, n, prompt) for n in names}
        got = {n: said(h, server.ends) for n, h in handles.items()}
    for name, tokens in got.items():
        plain, _, dial = name.partition("@")
        expected = serving.alone(
            None if name == serving.BASE else plain, tmp_path, ids(prompt), 12, float(dial) if dial else 1.0
        )
        assert tokens == expected, name
    assert len({tuple(t) for t in got.values()}) > 4, "they say different things"
