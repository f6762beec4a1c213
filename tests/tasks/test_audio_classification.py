"""audio-classification: what a model is given of a recording, what it says alone and beside others, whole runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.tasks.hearing import recipe, rows, whisper_folder
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_sounds import RATE, WORDS, hearing, tone, wav2vec2, whisper
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import stored
from tunewright.errors import ModelError
from tunewright.finished.export import export
from tunewright.loading.load import load
from tunewright.measure.linear_probe import fit
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Source
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task
from tunewright.tasks._features import A_SECOND, audio_options
from tunewright.tasks._recordings import resampled

TASK = get_task("audio-classification")


def ast():
    from transformers import ASTConfig, ASTForAudioClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ASTForAudioClassification(ASTConfig(max_length=64, num_mel_bins=16, num_labels=2, **sizes, **still))


def made(kind):
    """(a model, its extractor)."""
    from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

    masks = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    plain = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    model, extractor = {
        "whisper": (lambda: whisper("WhisperForAudioClassification"), hearing()),
        "wav2vec2 masked": (lambda: wav2vec2("Wav2Vec2ForSequenceClassification", norm="layer"), masks),
        "wav2vec2": (lambda: wav2vec2("Wav2Vec2ForSequenceClassification"), plain),
        "hubert": (lambda: wav2vec2("HubertForSequenceClassification"), plain),
        "ast": (ast, ASTFeatureExtractor(num_mel_bins=16, max_length=64)),
    }[kind]
    return seeded(model).eval(), extractor


KINDS = ["whisper", "wav2vec2 masked", "wav2vec2", "hubert", "ast"]


def sounds():
    return [tone((300, 1500)[i % 2], 0.2 + 0.07 * i, i) for i in range(5)]


def encoded(model, extractor, given=None):
    options = EncodeOptions(labels=WORDS, audio=audio_options(extractor, model.config))
    out = []
    for i, sound in enumerate(sounds() if given is None else given):
        values = {"audio": {"array": sound, "sampling_rate": RATE}, "label": WORDS[i % 2]}
        out.append(TASK.encode(Record(values, id=f"r:{i}", source="s"), None, options))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_plain_forward_of_each_recording(kind):
    model, extractor = made(kind)
    given = encoded(model, extractor)
    batch = TASK.collate(given)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        for k, sound in enumerate(sounds()):
            plain = extractor(resampled(sound, RATE, 16_000), sampling_rate=16_000, return_tensors="pt")
            torch.testing.assert_close(out.logits[k], model(**plain).logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.head(out.features), out.logits)
    assert out.features.shape[0] == len(given) == out.hidden[0].shape[0] and len(out.hidden) == 3
    assert batch.labels.tolist() == [0, 1, 0, 1, 0] and batch.tokens == sum(r.size for r in given)
    torch.testing.assert_close(
        TASK.loss(out, batch).value, torch.nn.functional.cross_entropy(out.logits, batch.labels, reduction="none")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_counts_by_its_seconds_or_by_the_models_window(kind):
    model, extractor = made(kind)
    window = {"whisper": 1.0, "ast": 0.64}.get(kind)
    for row, sound in zip(encoded(model, extractor), sounds(), strict=True):
        assert row.size == int(np.ceil(A_SECOND * (window or len(sound) / RATE)))


@pytest.mark.parametrize(("kind", "seconds"), [("whisper", 1.01), ("ast", 0.65)])
def test_what_is_longer_than_the_window_is_refused_and_what_fills_it_is_not(kind, seconds):
    model, extractor = made(kind)
    encoded(model, extractor, [tone(300, seconds - 0.01)])
    with pytest.raises(RowProblem, match="cut it into|long, and the model reads"):
        encoded(model, extractor, [tone(300, seconds)])


def test_settings_of_an_extractor_are_kept():
    from transformers import Wav2Vec2FeatureExtractor

    model, plain = made("wav2vec2")
    other = Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=False, sampling_rate=8_000)
    raw = TASK.collate(encoded(model, other)).inputs["input_values"]
    assert np.allclose(raw[0, : len(sounds()[0])].numpy(), sounds()[0], atol=1e-6)  # neither resampled nor normalised
    assert not np.allclose(TASK.collate(encoded(model, plain)).inputs["input_values"][0, :1600], raw[0, :1600])


def test_an_extractor_of_another_model_is_refused():
    model, _ = made("whisper")
    from transformers import ViTImageProcessor, WhisperFeatureExtractor

    with pytest.raises(ModelError, match="3000 frames of a recording, and the model reads 100"):
        audio_options(WhisperFeatureExtractor(feature_size=16), model.config)
    with pytest.raises(ModelError, match="names no sampling rate"):
        audio_options(ViTImageProcessor(), model.config)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, "label")
    whisper_folder(tmp_path / "base")
    return tmp_path


def test_rows_lie_on_disk_and_are_mapped(folder):
    model, extractor = made("whisper")
    options = EncodeOptions(labels=WORDS, audio=audio_options(extractor, model.config))
    data = stored(Source(path="train.jsonl"), TASK, extractor, options, folder / "cache", base=folder)
    assert len({len(r.fields["audio"]) for r in data.rows}) == len(data.rows)
    assert isinstance(data.rows[3].fields["audio"], np.memmap)
    assert list(data.rows.lengths) == [r.size for r in data.rows] == [50] * 8
    again = stored(Source(path="train.jsonl"), TASK, extractor, options, folder / "cache", base=folder)
    assert again.hash == data.hash
    from scipy.io import wavfile

    wavfile.write(folder / "clips" / "0.wav", RATE, (9000 * tone(700, 0.2)).astype(np.int16))
    assert stored(Source(path="train.jsonl"), TASK, extractor, options, folder / "cache", base=folder).hash != data.hash


def test_a_classifier_begins_at_the_encoder_of_a_model_that_writes(folder):
    loaded = load(str(folder / "base"), TASK, labels=list(WORDS))
    writer = load(str(folder / "base"), "automatic-speech-recognition")
    ours, theirs = loaded.model.state_dict(), writer.model.state_dict()
    assert all(torch.equal(t, theirs[f"model.{n}"]) for n, t in ours.items() if n.startswith("encoder."))
    assert sorted(loaded.new) == ["classifier.bias", "classifier.weight", "projector.bias", "projector.weight"]


def test_a_checkpoint_without_an_encoder_is_no_new_head(folder):
    from safetensors.torch import load_file, save_file

    at = folder / "base" / "model.safetensors"
    save_file({n: t for n, t in load_file(at).items() if "encoder.layers.1" not in n}, at, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights that config.json asks for"):
        load(str(folder / "base"), TASK, labels=list(WORDS))


@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 4}}], ["full", {"online-ewc": {}}]])
def test_a_run_measures_learns_resumes_and_goes_out(methods, folder):
    out = folder / "run"
    run(recipe(folder, TASK.name, methods=methods), out, quiet=True)
    report = Report.load(out)
    assert report.target.metric == "accuracy" and report.target.n == 4
    assert report.target.linear_probe.metric == "accuracy" and report.target.commonest is not None
    assert report.drift.measure and report.cost.tokens
    resume(out, verify=True, quiet=True)
    export(out, folder / "model")
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model = AutoModelForAudioClassification.from_pretrained(folder / "model").eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder / "model")
    kept = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    for line in kept:
        name = line["prompt"].split(",")[0]
        from scipy.io import wavfile

        rate, sound = wavfile.read(folder / name)
        heard = resampled(sound.astype(np.float32) / 32768, rate, 16_000)
        with torch.no_grad():
            logits = model(**extractor(heard, sampling_rate=16_000, return_tensors="pt")).logits
        assert model.config.id2label[int(logits.argmax())] == line["tuned"]


def test_the_linear_probe_is_scikit_learns_on_the_pooled_features(folder):
    from tunewright.measure.drift import take_features

    model, extractor = made("whisper")
    given = encoded(model, extractor, [tone((300, 1500)[i % 2], 0.2 + 0.01 * i, i) for i in range(12)])
    features = take_features(model, TASK, given).values
    with torch.no_grad():
        plain = [
            model.projector(model.encoder(TASK.collate([r]).inputs["input_features"]).last_hidden_state).mean(1)[0]
            for r in given
        ]
    torch.testing.assert_close(features, torch.stack(plain), rtol=1e-4, atol=1e-5)
    probe = fit(features, [r.label for r in given], 2)
    assert probe.logits(features).argmax(1).tolist() == [r.label for r in given]


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ({"audio": "clips/none.wav", "label": "low"}, "audio", "no file"),
        ({"audio": "clips/0.wav", "label": None}, "label", "missing"),
        ({"audio": "train.jsonl", "label": "low"}, "audio", "cannot be read as a recording"),
        ({"audio": {"array": [0.1] * 900, "sampling_rate": 0}, "label": "low"}, "sampling_rate", "no rate"),
        ({"text": "low", "label": "low"}, "audio", "no recording"),
    ],
)
def test_check_names_the_row_the_field_and_the_remedy(line, field, said, folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    (problem,) = check_recipe(recipe(folder, TASK.name)).bad_rows
    assert (problem.where, problem.field) == ("train.jsonl:9", field) and said in problem.reason and problem.remedy


def test_rows_that_sound_alike_are_told(folder):
    (folder / "clips" / "copy.wav").write_bytes((folder / "clips" / "0.wav").read_bytes())
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"audio": "clips/copy.wav", "label": "low"}) + "\n")
    report = check_recipe(recipe(folder, TASK.name)).report
    notices = [(n.kind, list(n.where)) for n in report.notices]
    assert any("train.jsonl:9" in str(where) for kind, where in notices if "duplicate" in kind), notices


def test_init_writes_a_recipe_for_a_folder_of_classes(folder):
    from scipy.io import wavfile

    for i in range(24):
        at = folder / "sounds" / WORDS[i % 2] / f"{i}.wav"
        at.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(at, RATE, (9000 * tone((300, 1500)[i % 2], 0.3, i)).astype(np.int16))
    text = starter(str(folder / "base"), folder / "sounds")
    assert "task: audio-classification" in text and "max_length" not in text
    assert f"batch_tokens: {4 * A_SECOND}" in text  # four recordings of the model's window of a second
