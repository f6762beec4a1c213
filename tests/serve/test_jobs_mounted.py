"""Jobs beside a server: what a job trained is served by its name, on the base that it was trained on."""

from __future__ import annotations

import openai
import pytest

from tests.serve.jobs_serving import base, chats, ended, serving, uploaded
from tunewright.errors import MethodError
from tunewright.loading.load import load
from tunewright.serve.app import build
from tunewright.serve.jobs.mounting import _base, mounted
from tunewright.serve.server import Server

RECIPE = {"methods": [{"lora": {"rank": 4}}], "budget": {"steps": 40}, "train": {"learning_rate": 0.02, "threads": 1}}


@pytest.mark.slow
def test_a_finished_jobs_model_answers_beside_its_base(tmp_path):
    folder = base(tmp_path / "base")
    models = tmp_path / "jobs" / "models"
    models.mkdir(parents=True)
    loaded = load(str(folder), "text-generation")
    server = Server(loaded, "tiny", models)
    more = mounted(tmp_path / "jobs", server, str(folder), models, 1)
    with serving(build(server, api_key="a-long-key", **more)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="a-long-key", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="other", max_retries=0).fine_tuning.jobs.list()
        rows = chats(8)
        big = rows + b" " * (3 << 20)  # larger than a request to the model may be
        made = client.fine_tuning.jobs.create(
            model="tiny", training_file=uploaded(client, big), extra_body={"tunewright": RECIPE}
        )
        asked = [{"role": "user", "content": "say 3"}]
        before = client.chat.completions.create(
            model="tiny", messages=asked, temperature=0, max_tokens=8, logprobs=True
        )
        job = ended(client, made.id)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model in {m.id for m in client.models.list()}
        told = {"messages": asked, "temperature": 0, "max_tokens": 8, "logprobs": True}
        tuned = client.chat.completions.create(model=job.fine_tuned_model, **told)
        assert tuned.choices[0].message.content.startswith("it is ")
        assert not (before.choices[0].message.content or "").startswith("it is")
        after = client.chat.completions.create(model="tiny", **told)
        assert after.choices[0].message.content == before.choices[0].message.content


def test_what_is_served_is_what_is_trained(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: nano\ntask: text-generation\ndata: {train: x}\nmethods: [full]\n")
    with pytest.raises(MethodError, match="no adapter"):
        _base(str(run))
    (run / "adapter").mkdir()
    assert _base(str(run))["name"] == "nano" and _base("nano") == "nano"
    assert _base(str(tmp_path)) == str(tmp_path.resolve())
    with pytest.raises(MethodError, match="makes vectors"):
        mounted(tmp_path / "jobs", object(), "nano", None, 1)
