"""Fine-tuning jobs through the real `openai` client: a job trains what its recipe says, and its end is a model."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file

from tests.serve.jobs_serving import base, chats, ended, preferences, served, uploaded
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return base(tmp_path_factory.mktemp("base"))


@pytest.mark.slow
def test_a_job_trains_as_its_recipe_does_and_leaves_a_model(tmp_path, model):
    told = []
    with served(tmp_path / "jobs", model, publish=told.append) as (jobs, client):
        train, other = uploaded(client, chats()), uploaded(client, chats(4), "other.jsonl")
        method = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
        made = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=train,
            validation_file=other,
            suffix="My model!",
            seed=7,
            metadata={"for": "a test"},
            method={"type": "supervised", "supervised": {"hyperparameters": method}},
            extra_body={"tunewright": {"methods": [{"lora": {"rank": 3}}], "train": {"threads": 1}}},
        )
        assert made.status in ("queued", "validating_files") and made.seed == 7 and made.fine_tuned_model is None
        client.files.delete(train)  # the job has a copy of its own
        job = ended(client, made.id)
        assert job.status == "succeeded", (jobs.store.place(made.id) / "log.txt").read_text()
        assert job.fine_tuned_model == f"ft-My-model-{made.id[-12:]}" and told == [job.fine_tuned_model]
        assert job.metadata == {"for": "a test"} and job.method.supervised.hyperparameters.n_epochs == 2
        place = jobs.store.place(made.id)
        tree = json.loads((place / "settled.json").read_text())
        assert tree["budget"] == {"epochs": 2} and tree["methods"] == [{"lora": {"rank": 3}}]
        own = run_recipe(Recipe(**tree), tmp_path / "own", quiet=True)
        mine = load_file(own.folder / "adapter" / "adapter_model.safetensors")
        theirs = load_file(tmp_path / "jobs" / "models" / job.fine_tuned_model / "adapter_model.safetensors")
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
        assert next(t for n, t in theirs.items() if "lora_A" in n).shape[0] == 3
        _says_what_happened(client, made.id, job)


def _says_what_happened(client, given, job):
    events = list(client.fine_tuning.jobs.list_events(given, limit=2))  # pages of two
    assert [e.message for e in events][:1] == ["The job is done."] and len({e.id for e in events}) == len(events)
    steps = [e for e in events if e.type == "metrics"]
    assert [e.data["step"] for e in reversed(steps)] == list(range(1, len(steps) + 1))
    assert 6 <= len(steps) <= 8  # 12 rows, about 4 a step, twice
    assert job.trained_tokens == steps[0].data["num_tokens"]
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(given).data
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model and checkpoint.step_number == len(steps)
    table, report = (client.files.content(f).read().decode() for f in job.result_files)
    assert table.splitlines()[0] == "step,train_loss,learning_rate" and len(table.splitlines()) == 1 + len(steps)
    assert json.loads(report)["target"] is not None
    assert [f.purpose for f in client.files.list(purpose="fine-tune-results")] == ["fine-tune-results"] * 2


def test_rate_and_batch_are_the_rules_times_what_is_asked(tmp_path, model):
    from tunewright.serve.jobs import worker
    from tunewright.serve.jobs.asked import JobRequest
    from tunewright.serve.jobs.recipes import recipe_of

    (tmp_path / "train.jsonl").write_bytes(chats(10))

    def settled(**hyper):
        asked = JobRequest(model="tiny", training_file="file-x", hyperparameters=hyper)
        tree = recipe_of(asked, str(model), tmp_path, "job", 0)
        return worker.settled(tree, asked.chosen.model_dump())["train"]

    assert "learning_rate" not in settled() and "batch_tokens" not in settled()
    once, twice = settled(learning_rate_multiplier=1), settled(learning_rate_multiplier=2)
    assert twice["learning_rate"] == pytest.approx(2 * once["learning_rate"])
    own = run_recipe(Recipe(**recipe_of(JobRequest(model="t", training_file="f", hyperparameters={"n_epochs": 1}),
                                        str(model), tmp_path, "job", 0)), tmp_path / "own", quiet=True)  # fmt: skip
    resolved = Recipe.load(own.folder / "recipe.yaml")
    assert resolved.train.learning_rate == pytest.approx(once["learning_rate"])
    assert settled(batch_size=10)["batch_tokens"] == pytest.approx(10 * settled(batch_size=1)["batch_tokens"], abs=10)


@pytest.mark.slow
def test_pairs_of_answers_train_by_dpo(tmp_path, model):
    with served(tmp_path / "jobs", model) as (jobs, client):
        method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": 1}}}
        made = client.fine_tuning.jobs.create(
            model="tiny", training_file=uploaded(client, preferences()), method=method
        )
        job = ended(client, made.id)
        place = jobs.store.place(made.id)
        assert job.status == "succeeded", (job.error, (place / "log.txt").read_text())
        recipe = Recipe.load(place / "run" / "recipe.yaml")
        assert [(m.name, m.params.get("beta")) for m in recipe.stages[0].methods] == [("lora", None), ("dpo", 0.3)]


@pytest.mark.slow
def test_bad_rows_are_named_by_line_and_no_path_is_told(tmp_path, model):
    rows = chats(6).decode().splitlines()
    rows[2], rows[4] = "{no json", json.dumps({"messages": [{"role": "user", "content": "nothing is said"}]})
    with served(tmp_path / "jobs", model) as (_, client):
        made = client.fine_tuning.jobs.create(model="tiny", training_file=uploaded(client, "\n".join(rows).encode()))
        job = ended(client, made.id)
        assert job.status == "failed" and job.error.code == "invalid_file" and job.error.param == "training_file"
        assert "training_file, line 3:" in job.error.message and "line 5:" in job.error.message
        assert str(tmp_path) not in job.error.message
        assert client.fine_tuning.jobs.list_events(made.id).data[0].level == "error"


@pytest.mark.slow
def test_a_file_that_is_no_text_is_named_as_the_request_names_it(tmp_path, model):
    with served(tmp_path / "jobs", model) as (_, client):
        good, bad = uploaded(client, chats()), uploaded(client, bytes(range(256)) * 8)
        made = client.fine_tuning.jobs.create(model="tiny", training_file=good, validation_file=bad)
        job = ended(client, made.id)
        assert job.status == "failed" and job.error.param == "validation_file"
        assert "validation_file" in job.error.message and "eval.jsonl" not in job.error.message


@pytest.mark.slow
def test_what_a_method_refuses_is_the_jobs_error(tmp_path, model):
    with served(tmp_path / "jobs", model) as (_, client):
        made = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=uploaded(client, chats()),
            extra_body={"tunewright": {"methods": [{"lora": {"target_modules": ["nowhere"]}}]}},
        )
        job = ended(client, made.id)
        assert job.status == "failed" and job.error.code == "invalid_recipe" and "nowhere" in job.error.message


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"model": "other"}, "model", "no base here"),
        ({"model": "../tiny"}, "model", "no base here"),
        ({"training_file": "file-ffffffffffffffffffffffff"}, "training_file", "no file"),
        ({"training_file": "../../etc/passwd"}, "training_file", "no file"),
        ({"validation_file": "file-1"}, "validation_file", "no file"),
        ({"method": {"type": "reinforcement"}}, "method.type", "supervised"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method", "does not go with"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "greater"),
        ({"hyperparameters": {"batch_size": 1e9}}, "hyperparameters.batch_size", "less"),
        ({"seed": -1}, "seed", "greater"),
        ({"suffix": "x" * 65}, "suffix", "64"),
        ({"integrations": [{"type": "wandb"}]}, "integrations", "at most 0"),
        ({"unknown": 1}, "unknown", "not served"),
    ],
)
def test_what_is_refused_at_once(small, asked, param, said):
    client, file = small
    body = {"model": "tiny", "training_file": file, **asked}
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/fine_tuning/jobs", body=body, cast_to=dict)
    error = caught.value
    assert error.status_code in (400, 404) and error.body["param"].startswith(param) and said in str(error)
    assert not client.fine_tuning.jobs.list().data


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with served(tmp_path_factory.mktemp("small"), limits={"file_bytes": 5000, "files_bytes": 8000, "files": 4}) as (
        _,
        client,
    ):
        yield client, uploaded(client, chats(4))


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"model": "other"}, "no part of a recipe"),
        ({"keep": ["general.txt"]}, "no part of a recipe"),
        ({"after": ["lines"]}, "no part of a recipe"),
        ({"data": {"train": "/etc/passwd"}}, "no part of a recipe"),
        ({"methods": ["./own.py"]}, "no method"),
        ({"methods": [{"lora": {}, "full": {}}]}, "no method"),
        ({"methods": [{"name": "lora", "params": {}}]}, "no method"),
        ({"methods": "lora"}, "no list"),
        ({"methods": [{"lora": {"target_modules": "../../x"}}]}, "no paths"),
        ({"methods": [{"corda": {"data": "/etc/passwd"}}]}, "no paths"),
        ({"methods": [{"corda": {"data": "quickstart:keep"}}]}, "no paths"),
        ({"train": {"optimizer": "own.py"}}, "no paths"),
        ({"train": {"learning_rate": -1}}, "learning_rate"),
        ({"train": []}, "no mapping"),
        ({"data": {"max_length": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}}}, "deep"),
        ({"measurement": {"metric": "https://example.org/x"}}, "no paths"),
    ],
)
def test_a_recipes_parts_name_no_paths_and_nothing_unknown(small, own, said):
    client, file = small
    with pytest.raises(openai.BadRequestError, match=said):
        client.fine_tuning.jobs.create(model="tiny", training_file=file, extra_body={"tunewright": own})
    assert not client.fine_tuning.jobs.list().data


def test_files_are_kept_by_names_of_the_servers_own(small, tmp_path):
    client, first = small
    given = client.files.create(file=("../../etc/\x1b[31mpasswd\n.jsonl", chats(2)), purpose="fine-tune")
    assert given.filename == "[31mpasswd%0A.jsonl" and given.bytes == len(chats(2))
    assert client.files.content(given.id).read() == chats(2)
    assert {f.id for f in client.files.list()} >= {given.id, first}
    assert client.files.delete(given.id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(given.id)
    for odd in ("..", "file-", "%2e%2e%2fjobs", "file-..%2f..%2f0000000000000000", "x" * 5000):
        with pytest.raises(openai.APIStatusError) as caught:
            client.get(f"/files/{odd}", cast_to=dict)
        assert caught.value.status_code == 404


def test_sizes_and_counts_of_files_are_bounded(small):
    client, _ = small
    with pytest.raises(openai.APIStatusError) as caught:
        uploaded(client, b"x" * 5001)
    assert caught.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        uploaded(client, b"x" * 200_000)  # refused while it is read
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="empty"):
        uploaded(client, b"")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a", b"x"), purpose="assistants")
    mine = [uploaded(client, b"x" * 3000), uploaded(client, b"x" * 3000)]
    with pytest.raises(openai.BadRequestError, match="room"):
        uploaded(client, b"x" * 3000)
    mine.append(uploaded(client, b"x"))
    with pytest.raises(openai.BadRequestError, match="keeps 4 files"):
        uploaded(client, b"x")
    for given in mine:
        client.files.delete(given)


def test_no_upload_leaves_anything_half(small, tmp_path_factory):
    client, first = small
    names = {f.id for f in client.files.list()}
    with pytest.raises(openai.APIStatusError):
        uploaded(client, b"x" * 5001)
    assert {f.id for f in client.files.list()} == names and first in names


def test_pages_go_on_after_what_was_named(small):
    client, _ = small
    with pytest.raises(openai.BadRequestError, match="go on after"):
        client.fine_tuning.jobs.list(after="ftjob-1")
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.fine_tuning.jobs.list(limit=0)
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.list_events("ftjob-" + "0" * 24)


def test_bodies_that_are_no_json(small):
    url = str(small[0].base_url)
    for body in (b"{", b"[" * 100_000, b'{"model": "\xff"}', b"null", b"1", b'"x"', b""):
        assert httpx.post(f"{url}fine_tuning/jobs", content=body).status_code == 400
    assert httpx.post(f"{url}fine_tuning/jobs", content=b"x" * (1 << 21)).status_code == 413
    as_form = {"content-type": "multipart/form-data; boundary=x"}
    for form in (b"", b"--x\r\nbroken", b"--x--"):
        assert httpx.post(f"{url}files", content=form, headers=as_form).status_code == 400
    assert httpx.post(f"{url}files", content=b"{}").status_code == 400
