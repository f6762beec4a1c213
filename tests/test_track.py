from __future__ import annotations

import logging
import math

import pytest

from tunewright.runs import track


def test_tensorboard_gets_the_numbers_of_each_record(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = track.Trackers(["tensorboard"], tmp_path)
    trackers.log({"step": 1, "loss": 2.0, "stage": "main", "seconds": {"forward": 0.5}, "bad": math.nan})
    trackers.log({"step": 2, "loss": 1.5})
    trackers.log({"loss": 9.0})
    trackers.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 2.0), (2, 1.5)]
    assert set(read.Tags()["scalars"]) == {"loss", "seconds/forward"}


@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_tracker_that_fails_is_logged_once_and_the_run_goes_on(monkeypatch, caplog, tmp_path, when):
    class Broken:
        def __init__(self, folder, first_step):
            if when == "open":
                raise ImportError("not installed")

        def log(self, values, step):
            if when == "log":
                raise ConnectionError("gone")

        def close(self):
            if when == "close":
                raise OSError("full")

    monkeypatch.setitem(track.TRACKERS, "broken", Broken)
    with caplog.at_level(logging.WARNING):
        trackers = track.Trackers(["broken"], tmp_path)
        for step in range(3):
            trackers.log({"step": step, "loss": 1.0})
        trackers.close()
    assert len(caplog.records) == 1 and "broken" in caplog.text
