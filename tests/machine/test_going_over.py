"""Long work tells how far it is: not at once, not too often, with the time that is left."""

from __future__ import annotations

from tests import small
from tunewright.machine import going
from tunewright.machine.going import over, telling
from tunewright.runs.run import run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(each: float, count: int = 8) -> list[str]:
    clock, lines, seen = Clock(), list[str](), list[int]()
    with telling(lines.append):
        for item in over(range(count), "svd: layers", clock):
            seen.append(item)
            clock.now += each
    assert seen == list(range(count))
    return lines


def test_lines_come_every_ten_seconds_and_not_after_the_last():
    assert told(1.0) == []
    assert told(4.0) == ["svd: layers: 3 of 8, about 20 s left", "svd: layers: 6 of 8, about 8 s left"]
    assert len(told(60.0)) == 7


def test_nobody_listens_outside():
    lines: list[str] = []
    with telling(lines.append):
        pass
    assert list(over("ab", "work")) == ["a", "b"] and lines == []


def test_a_run_tells_of_the_set_up_of_lq_lora_unless_it_is_quiet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(going, "EVERY", 0.0)
    small.write_inputs(tmp_path)
    lq = {"lq-lora": {"rank": 2, "average_bits": 4, "block_sizes": [16], "iterations": 2}}
    file = small.write_recipe(tmp_path, stages=[{"name": "main", "methods": [lq], "budget": {"steps": 1}}])
    run(file, out=tmp_path / "a")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("lq-lora: errors of each format, layer by layer: 1 of ") for line in lines)
    assert any(line.startswith("lq-lora: layers set up: 1 of ") for line in lines)
    run(file, out=tmp_path / "b", quiet=True)
    assert "lq-lora" not in capsys.readouterr().err
