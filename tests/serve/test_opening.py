"""Runs are served as an adapter on their base, or whole; what cannot be served is refused before any port opens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests import small, tiny
from tests.serve import serving
from tests.serve.test_same_answers import asked, said
from tunewright.commands import cli
from tunewright.errors import MethodError, MissingExtraError, ModelError, RecipeError
from tunewright.finished.finished import open_run
from tunewright.measure.generate import greedy
from tunewright.runs import run as runs
from tunewright.serve import running
from tunewright.serve.opening import open_server, place_for
from tunewright.serve.server import Server

METHODS: dict[str, Any] = {"lora": [{"lora": {"rank": 4}}], "full": ["full"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of two finished runs on one base."""
    folder = tmp_path_factory.mktemp("made")
    small.write_inputs(folder)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        for name, methods in METHODS.items():
            recipe = small.write_recipe(folder, name, measurement=quick, stages__0__methods=methods)
            runs.run(recipe, out=folder / "runs" / name, quiet=True)
        yield folder


def tuned(run: Path, prompt: list[int]) -> list[int]:
    finished = open_run(run)
    with finished.adapted.at_strength(1.0) as model:
        return greedy(model, finished.tokenizer, [prompt], 8)[0]  # type: ignore[arg-type]


PROMPT = list(tiny.tokenizer()("lost card fee", add_special_tokens=False)["input_ids"])


def test_runs_below_a_folder_are_models_of_their_base(made: Path) -> None:
    with open_server(str(made / "base"), made / "runs") as server:
        assert isinstance(server, Server) and server.library.names() == ["lora"] and server.name == "base"
        handle = asked(server, "lora", "lost card fee", 8)
        assert said(handle, server.ends) == tuned(made / "runs" / "lora", PROMPT)
        with pytest.raises(Exception, match="'full' cannot be used: the change is more than deltas"):
            server.library.find("full")


@pytest.mark.parametrize("name", list(METHODS))
def test_a_run_can_be_the_model(made: Path, name: str) -> None:
    with open_server(str(made / "runs" / name)) as server:
        assert isinstance(server, Server)
        assert [server.name, *server.library.names()] == (["base", "lora"] if name == "lora" else ["full"])
        handle = asked(server, name, "lost card fee", 8)
        assert said(handle, server.ends) == tuned(made / "runs" / name, PROMPT)


def test_adapters_of_the_base_do_not_fit_a_tuned_model(made: Path) -> None:
    with open_server(str(made / "runs" / "full"), made / "runs") as server:
        assert isinstance(server, Server)
        with pytest.raises(Exception, match="belongs to another base"):
            server.library.find("lora")


def test_what_is_no_model_to_serve_is_refused(tmp_path: Path) -> None:
    tiny.bert_classifier().save_pretrained(tmp_path / "bert")
    tiny.tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError):
        open_server(str(tmp_path / "bert"))
    with pytest.raises(ModelError):
        open_server(str(tmp_path / "none"))
    tiny.llama().save_pretrained(tmp_path / "llama")
    tiny.tokenizer().save_pretrained(tmp_path / "llama")
    with pytest.raises(RecipeError, match="no name for a model"):
        open_server(str(tmp_path / "llama"), name="a b")
    with pytest.raises(MethodError, match="adapters go on models that write text"):
        open_server(str(tmp_path / "bert"), tmp_path, task="sentence-similarity")


def test_a_model_with_windows_is_refused_in_words() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    with pytest.raises(ModelError, match="MistralForCausalLM keeps more than keys and values"):
        Server(serving.loaded(MistralForCausalLM(config).eval()), "x")


def test_a_model_that_answers_otherwise_in_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that counts its positions anew in every call."""
    model = tiny.llama()
    plain = model.model.rotary_emb.forward
    again = lambda x, position_ids: plain(x, position_ids - position_ids[:, :1])  # noqa: E731
    monkeypatch.setattr(model.model.rotary_emb, "forward", again)
    with pytest.raises(MethodError, match="answers otherwise when rows share a step"):
        Server(serving.loaded(model), "x")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_hosts_want_a_key(host: str) -> None:
    with pytest.raises(RecipeError, match="others could reach"):
        running.check_host(host, None)
    running.check_host(host, "a-long-secret")
    with pytest.raises(RecipeError, match="at least 8 characters"):
        running.check_host(host, "short")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_wants_none(host: str) -> None:
    running.check_host(host, None)


def test_missing_libraries_and_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "NEEDED", ("starlette", "nothing_of_this_name"))
    with pytest.raises(MissingExtraError, match="serving needs nothing_of_this_name"):
        running.need_extra()
    with pytest.raises(RecipeError, match="torch sees no mps"):
        place_for("mps")
    assert place_for("cpu") == "cpu"


def test_importing_the_package_imports_no_web_server() -> None:
    code = "import tunewright.commands.cli, sys; print(sorted({'starlette', 'uvicorn', 'vllm'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_verb_serves_until_it_is_stopped(made: Path) -> None:
    command = [sys.executable, "-m", "tunewright", "serve", str(made / "base"), "--adapters", str(made / "runs")]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--max-length", "64"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["model"] == "base" and told["adapters"] == 1
        client = openai.OpenAI(base_url=told["address"], api_key="none", max_retries=0)
        assert client.completions.create(model="lora", prompt="lost card", max_tokens=2).usage is not None
        assert httpx.get(f"{told['address']}/models/lora").json()["max_model_len"] == 64
    finally:
        process.terminate()
    assert process.wait(30) == 0 and process.stderr is not None
    assert process.stderr.read() == ""


def test_a_taken_port_is_one_message(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            cli.app(["serve", str(made / "base"), "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 7 and "cannot be served on" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_model_answers_the_same_in_mixed_batches(tmp_path: Path) -> None:
    """SmolLM2 with three adapters: greedy texts of one mixed batch are those of base + adapter alone."""
    import torch

    from tunewright.loading.load import load
    from tunewright.models import deltas as forms
    from tunewright.models import peft_format

    name = "smollm2-135m-instruct"
    adapted = load(name, "text-generation").adapted()
    for seed in (1, 2, 3):
        g = torch.Generator().manual_seed(seed)
        for site in adapted.structure.linear_sites():
            A = torch.randn(8, site.in_features, generator=g) / site.in_features**0.5
            forms.attach(site, "a", forms.LowRank(A, torch.randn(site.out_features, 8, generator=g) * 0.06, 1.0))
        peft_format.save_adapter(adapted, tmp_path / f"a{seed}", name)
        adapted.forget_changes()
    texts = ("What is the capital of France?", "Write a line about the sea.", "Name three colours.")
    with open_server(name, tmp_path) as server:
        assert isinstance(server, Server)
        ids = [server.tokenizer(t)["input_ids"] for t in texts]
        pairs = [(m, t) for t in texts for m in (name, "a1", "a2", "a3", "a1@0.5")]
        handles = [asked_of(server, m, server.tokenizer(t)["input_ids"]) for m, t in pairs]
        got = {pair: said(h, frozenset()) for pair, h in zip(pairs, handles, strict=True)}
    for model in (name, "a1", "a2", "a3", "a1@0.5"):
        own, _, dial = model.partition("@")
        if own != name:
            peft_format.load_adapter(adapted, tmp_path / own)
        with adapted.at_strength(float(dial or 1)) as folded:
            alone = [greedy(folded, server.tokenizer, [i], 10, ())[0] for i in ids]  # type: ignore[arg-type]
        adapted.forget_changes()
        assert [got[model, t] for t in texts] == alone, model
    assert len({tuple(t) for t in got.values()}) > 6


def asked_of(server: Server, model: str, ids: list[int]) -> Any:
    from tunewright.serve.requests import Request
    from tunewright.serve.sampling import Sampling

    return server.engine.submit(Request(ids, Sampling(10, temperature=0.0), server.library.find(model)))
