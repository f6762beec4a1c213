"""A classifier whose processor is not a plain one, from check to export: the figures are of its own pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests import architectures
from tunewright.commands import cli
from tunewright.finished.export import export
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble


def tunewright(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name, kind", [("convnext", "ConvNext"), ("deit", "DeiT")])
def test_a_run_measures_and_trains_what_the_models_own_processor_makes(name, kind, tmp_path):
    names = dict(enumerate("ab"))
    labels = {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    model = architectures.make(name, "image-classification", **labels)
    processor = architectures.processor_of(name)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    draw, rows, pictures = np.random.default_rng(0), [], []
    for i in range(12):
        pictures.append(Image.fromarray(draw.integers(0, 256, (40 + i, 80 - 3 * i, 3), dtype=np.uint8)))
        pictures[-1].save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"image": f"{i}.png", "label": "ab"[i % 2]}) + "\n")
    (tmp_path / "train.jsonl").write_text("".join(rows[:6]))
    (tmp_path / "eval.jsonl").write_text("".join(rows[6:]))
    recipe = {"model": "./model", "task": "image-classification", "methods": ["full"], "budget": {"steps": 3}}
    recipe |= {"data": {"train": "train.jsonl", "eval": "eval.jsonl"}}
    recipe |= {"measurement": {"metric": "loss", "drift_sequences": 2, "strengths": [1.0]}}
    recipe |= {"train": {"batch_tokens": 4, "precision": "float32", "threads": 1, "learning_rate": 1e-3}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))

    seen = check_recipe(file).report.datasets["eval"][0].rows
    used = assemble(Recipe.load(file)).eval
    assert [r.fields["pixels"].tobytes() for r in seen] == [r.fields["pixels"].tobytes() for r in used.rows]
    assert "ok" in tunewright("check", file) and tunewright("plan", file)
    tunewright("run", file, "--out", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    out = export(tmp_path / "run").folder
    tuned = type(model).from_pretrained(out).eval()
    again = type(processor).from_pretrained(out)
    assert again.to_dict() == processor.to_dict()
    for which, predictor, reader in (("before", model, processor), ("after", tuned, again)):
        with torch.no_grad():
            told = [predictor(**reader(p, return_tensors="pt")).logits[0] for p in pictures[6:]]
        loss = torch.nn.functional.cross_entropy(torch.stack(told), torch.arange(6) % 2)
        assert report["target"][which]["value"] == pytest.approx(float(loss), abs=1e-5)
    assert kind in json.dumps(json.loads((out / "preprocessor_config.json").read_text()))
