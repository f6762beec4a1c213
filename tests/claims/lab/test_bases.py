from __future__ import annotations

import json
import math
import re

import pytest
import torch

from tunewright.claims.lab import ship
from tunewright.loading import builtin
from tunewright.loading.load import load
from tunewright.loading.locate import locate

TASKS = {
    "nano": "text-generation",
    "nano-large": "text-generation",
    "nano-encoder": "fill-mask",
    "nano-vit": "image-classification",
}
SHIPPED = sorted(builtin.shipped())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_base_loads_by_its_name_and_is_the_one_of_its_card(name):
    folder = builtin.shipped()[name]
    measured = ship.read(folder)
    assert measured["sha256"] == ship.digest(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == ship.card(measured)
    assert (folder / "model.safetensors").stat().st_size <= 16_000_000
    loaded = load(name, TASKS[name], progress=False)
    assert sum(p.numel() for p in loaded.model.parameters()) == measured["parameters"]
    assert loaded.licence == measured["licence"] and "shipped" in loaded.source
    if loaded.tokenizer is not None:
        ids = loaded.tokenizer("In 1999, nothing was lost: é ü", return_tensors="pt")
        with torch.no_grad():
            assert torch.isfinite(loaded.model(**ids).logits).all()
        assert loaded.tokenizer.decode(loaded.tokenizer("in 1999 é", add_special_tokens=False).input_ids) == "in 1999 é"


@pytest.mark.parametrize("name", [n for n in SHIPPED if n in ("nano", "nano-large")])
def test_a_causal_base_beats_the_five_gram_of_its_card(name):
    measured = ship.read(builtin.shipped()[name])
    assert measured["held_nats"] < measured["kneser_ney_nats"]


def test_shipped_bases_take_no_revision_and_their_names_are_offered():
    from tunewright.errors import ModelError

    if "nano" not in SHIPPED:
        pytest.skip("no base is shipped yet")
    with pytest.raises(ModelError, match="revision"):
        locate("nano", "main")
    with pytest.raises(ModelError, match="'nano'"):
        locate("nanoo")


def test_a_card_is_made_of_the_figures(tmp_path):
    model = torch.nn.Linear(2, 2)
    model.save_pretrained = lambda folder: (folder / "model.safetensors").write_bytes(b"x")  # type: ignore[assignment]
    measured = {
        "task": "t",
        "about": "About.",
        "licence": "mit",
        "figures": ["F 0.123"],
        "limits": ["L"],
        "data_note": "N",
        "sources": [["s", "mit", 1, 2]],
        "curve": [[i * 10, 5 - i / 10] for i in range(20)],
        "seconds": 3.0,
        "seen": 200,
        "threads": 1,
        "unit": "tokens",
        "tasks": [
            {
                "task": "q",
                "metric": "m",
                "base": "0",
                "tuned": "1",
                "sd": "0.1",
                "seeds": 4,
                "arm": "full",
                "seconds": "5",
            }
        ],
    }
    folder = ship.ship("one", model, None, measured, tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "F 0.123" in text
        and "| 190 | 3.100 |" in text
        and "| q | m | 0 | 1 | 0.1 | 4 | full | 5 | 0.118 |" in text
        and "license: mit" in text
    )
    assert json.loads((folder / "card.json").read_text())["sha256"] in text
    assert len(re.findall(r"^\| [\d,]+ \| \d\.\d{3} \|$", text, re.MULTILINE)) <= 9


def test_what_seeds_tell_apart_is_the_half_width_of_the_interval_that_judges():
    import numpy as np

    from tunewright.measure.intervals import t_interval

    rng = np.random.default_rng(0)
    halves = [t_interval(list(rng.normal(0, 0.1, 8) - rng.normal(0, 0.1, 8))) for _ in range(4000)]
    squared = float(
        np.mean([((h.high - h.low) / 2) ** 2 for h in halves])
    )  # the variance is what is estimated without bias
    assert math.sqrt(squared) == pytest.approx(ship.told_apart(0.1), rel=0.03)
    assert ship.told_apart(0.1, 16) < ship.told_apart(0.1)
