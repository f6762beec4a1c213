from __future__ import annotations

import contextlib
import json

import pytest
from typer.testing import CliRunner

from tests.claims.test_runner import declare, here, made_up, run  # noqa: F401
from tunewright.claims import claim as claims
from tunewright.claims import engine, listing, results_io, runner
from tunewright.commands import cli
from tunewright.errors import ClaimError, DataError


def invoke(*args: str):
    return CliRunner().invoke(cli.app, list(args))


def test_what_a_command_line_may_name():
    assert listing.chosen(["hft", "corda__preview"]) == ["hft", "corda--preview"]
    assert listing.chosen([], every=True) == claims.names()
    with pytest.raises(ClaimError, match="no claim is named 'hfd'"):
        listing.chosen(["hfd"])
    with pytest.raises(ClaimError, match="--family F or --all"):
        listing.chosen([])
    with pytest.raises(ClaimError, match="no claim is of the family 'nothing'"):
        listing.chosen([], family="nothing")


def test_a_family_is_that_of_the_papers_card():
    found = listing.chosen([], family="continual")
    assert "hft" in found and "lift" not in found


def test_the_commands_say_what_is_wrong():
    done = invoke("papers", "run", "hfd")
    assert done.exit_code == 1 and "did you mean" in done.stderr and "Traceback" not in done.output
    done = invoke("papers", "run", "hft", "--scale", "huge")
    assert done.exit_code == 1 and "--scale nano or --scale real" in done.stderr


def test_one_claim_that_cannot_be_run_does_not_stop_the_others(here, monkeypatch, capsys):  # noqa: F811
    asked = []

    def run_claim(name, scale, *, say, **options):
        asked.append(name)
        if name == "hft":
            raise DataError("no data", remedy="set TUNEWRIGHT_DATA")
        say(1, 1, "done")

    monkeypatch.setattr(runner, "run_claim", run_claim)
    monkeypatch.setattr(engine, "Local", lambda workers: contextlib.nullcontext())
    assert listing.run_all(["hft", "corda"], "nano", results=here / "none") == [] and asked == ["hft", "corda"]
    said = capsys.readouterr().err
    assert (
        "hft: no data" in said and "set TUNEWRIGHT_DATA" in said and "corda (nano), claim 2 of 2: 1 of 1 runs" in said
    )
    with pytest.raises(ClaimError, match="1 of 1 claims could not be run"):
        listing.run_all(["hft"], "nano", results=here / "none")


def test_an_interruption_says_how_to_go_on(here, monkeypatch):  # noqa: F811
    def run_claim(*names, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_claim", run_claim)
    monkeypatch.setattr(engine, "Local", lambda workers: contextlib.nullcontext())
    done = invoke("papers", "run", "hft", "--results", str(here))
    assert done.exit_code == 75 and "the same command again" in done.stderr and "resume" not in done.stderr


def test_verdicts_as_text_and_as_json(here, monkeypatch):  # noqa: F811
    declare(here)
    run(here, made_up(hft=0.2))
    shown = invoke("papers", "verdicts", "hft", "--results", str(here / "results"))
    assert shown.exit_code == 0 and "holds" in shown.stdout and "claim" in shown.stdout
    found = json.loads(invoke("papers", "verdicts", "hft", "--results", str(here / "results"), "--json").stdout)
    assert found[0]["claim"] == "hft" and "claim" in found[0]["stale"]  # made from another file than the shipped claim


def test_results_go_where_they_may_be_written(here, monkeypatch):  # noqa: F811
    assert results_io.folder(here) == here and results_io.folder() == results_io.SHIPPED
    monkeypatch.setattr(results_io.os, "access", lambda *a: False)
    assert results_io.folder() == here / "cache" / "claims" / "results"
