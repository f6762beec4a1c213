"""automatic-speech-recognition: what counts, what is written, how errors are counted, whole runs; Whisper and CTC."""

from __future__ import annotations

import json

import jiwer
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tasks.hearing import ALPHABET, ctc_folder, ctc_tokenizer, recipe, rows, whisper_folder
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_sounds import MARKS, RATE, hearing, tone, wav2vec2, whisper, whisper_tokenizer
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.errors import MethodError, MissingExtraError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.run import Run
from tunewright.measure import speech
from tunewright.measure.drift import kl_by_row, take_reference
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.target import check_metric, evaluate, figure_of, get_metric, summary
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run
from tunewright.tasks import _ctc, get_task
from tunewright.tasks._features import audio_options

TASK = get_task("automatic-speech-recognition")
READS = whisper_tokenizer()
START, EN, DE, WRITE, UNTIMED = (READS.convert_tokens_to_ids(m) for m in MARKS)
END = READS.eos_token_id


def encoded(text, model, *, seconds=0.3, reads=READS, extractor=None, multilingual=None, **columns):
    audio = audio_options(extractor or hearing(), model.config)
    audio |= {} if multilingual is None else {"multilingual": multilingual}
    values = {"audio": {"array": tone(400, seconds, len(text)), "sampling_rate": RATE}, "text": text, **columns}
    return TASK.encode(Record(values, id=f"r:{text}", source="s"), reads, EncodeOptions(audio=audio))


@pytest.fixture(scope="module")
def model():
    return seeded(whisper).eval()


def test_a_row_is_what_stands_before_the_text_the_text_and_its_end(model):
    row = encoded("low high", model)
    text = READS(" low high", add_special_tokens=False).input_ids
    assert row.input_ids == [START, UNTIMED, *text, END] and row.fields["prompt_ids"] == [START, UNTIMED]
    assert row.weights == [0.0, 0.0] + [1.0] * (len(text) + 1) and row.size == len(row.input_ids) + 50
    assert READS.decode(row.input_ids, skip_special_tokens=True) == " low high"


@pytest.mark.parametrize("told", ["de", "German", "german"])
def test_a_language_is_told_by_name_or_code(told, model):
    row = encoded("low", model, multilingual=True, language=told)
    assert row.input_ids[:4] == [START, DE, WRITE, UNTIMED] and row.weights[:5] == [0, 0, 0, 0, 1]
    assert TASK.default_metric([row]) == "wer" and TASK.default_metric([encoded("low", model)]) == "wer_english"
    assert TASK.default_metric([encoded("low", model, multilingual=True, language="en")]) == "wer_english"


@pytest.mark.parametrize(
    ("columns", "multilingual", "said"),
    [
        ({}, True, "does not name its own"),
        ({"language": "klingon"}, True, "no language that the model writes"),
        ({"language": "de"}, False, "writes English alone"),
    ],
)
def test_a_language_that_is_not_known_is_refused(columns, multilingual, said, model):
    with pytest.raises(RowProblem) as found:
        encoded("low", model, multilingual=multilingual, **columns)
    assert found.value.field == "language" and said in f"{found.value.reason} {found.value.remedy}"


@pytest.mark.parametrize(
    ("text", "said"), [(" ", "empty"), (None, "missing"), (7, "no text"), ("low " * 40, "the model writes 32")]
)
def test_a_text_that_cannot_be_trained_is_refused(text, said, model):
    audio = audio_options(hearing(), model.config)
    record = Record({"audio": {"array": tone(400, 0.3), "sampling_rate": RATE}, "text": text}, id="r")
    with pytest.raises(RowProblem, match=said) as found:
        TASK.encode(record, READS, EncodeOptions(audio=audio))
    assert found.value.field == "text"
    with pytest.raises(RowProblem, match="not put into a text"):
        TASK.encode(record.replace(text="low"), READS, EncodeOptions(audio=audio, template="{text}!"))


def test_the_loss_is_transformers_own_of_each_row(model):
    given_rows = [encoded("low", model), encoded("higher than the lower", model)]
    batch = TASK.collate(given_rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        values = TASK.loss(out, batch).value
        for k, row in enumerate(given_rows):
            ids = torch.tensor([row.input_ids])
            labels = ids.masked_fill(torch.tensor([row.weights]) == 0, -100)[:, 1:]
            heard = hearing()(row.fields["audio"], sampling_rate=16_000, return_tensors="pt").input_features
            alone = model(input_features=heard, decoder_input_ids=ids[:, :-1], labels=labels).loss
            torch.testing.assert_close(values[batch.rows == k].mean(), alone)
    assert out.logits.shape == (len(batch.labels), model.config.vocab_size)
    assert len(out.hidden) == 3 and out.hidden[0].shape[:2] == batch.fields["decoder_ids"].shape
    assert batch.tokens == sum(r.size for r in given_rows)


@pytest.mark.parametrize("beams", [None, 1, 3])
def test_answers_are_the_models_own_generation(beams, model):
    given_rows = [encoded(t, model) for t in ("low", "high lower", "the slower high low")]
    got = evaluate(model, READS, TASK, given_rows, "wer_exact", max_new_tokens=7, num_beams=beams)
    for row, result in zip(given_rows, got, strict=True):
        heard = hearing()(row.fields["audio"], sampling_rate=16_000, return_tensors="pt").input_features
        how = {} if beams is None else {"num_beams": beams}
        ids = model.generate(heard, max_new_tokens=7, do_sample=False, **how)[0]
        assert result.answer == READS.decode(ids, skip_special_tokens=True)
        assert result.prompt == row.fields["text"] == "0.30 s" and result.reference == row.fields["reference"]


def test_languages_are_told_to_generate(model, monkeypatch):
    model = seeded(whisper).eval()
    model.generation_config.is_multilingual = True
    model.generation_config.lang_to_id = {"<|en|>": EN, "<|de|>": DE}
    model.generation_config.task_to_id = {"transcribe": WRITE}
    seen = []
    real = model.generate
    monkeypatch.setattr(model, "generate", lambda **how: seen.append(how) or real(**how))
    given_rows = [encoded("low", model, multilingual=True, language=code) for code in ("de", "en")]
    got = TASK.write(model, READS, [TASK.asked(r) for r in given_rows], 5)
    assert seen[0]["language"] == ["de", "en"] and seen[0]["task"] == "transcribe" and len(got) == 2
    heard = torch.cat([TASK.collate([r]).inputs["input_features"] for r in given_rows])
    plain = real(heard, language=["de", "en"], task="transcribe", max_new_tokens=5, do_sample=False)
    assert [READS.decode(i, skip_special_tokens=True) for i in got] == READS.batch_decode(
        plain, skip_special_tokens=True
    )


def test_a_model_that_does_not_say_how_texts_begin_is_refused():
    model = seeded(whisper).eval()
    model.generation_config.no_timestamps_token_id = None
    with pytest.raises(ModelError, match="does not say how its texts begin"):
        TASK.write(model, READS, [TASK.asked(encoded("low", model))], 5)


def test_generation_begins_with_what_training_gave(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "forward", lambda *a, f=model.forward, **k: seen.append(k) or f(*a, **k))
    row = encoded("low", model)
    TASK.write(model, READS, [TASK.asked(row)], 2)
    assert seen[0]["decoder_input_ids"][0].tolist() == row.fields["prompt_ids"]


SAID = st.lists(st.sampled_from(["seven", "Eight,", "NINE", "(um)", "won't", "zero."]), max_size=8).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=6))
def test_the_figure_is_all_errors_over_all_words(pairs):
    for name, normalise, count in (
        ("wer", speech.basic, jiwer.process_words),
        ("wer_english", speech.english, jiwer.process_words),
        ("wer_exact", speech.exact, jiwer.process_words),
        ("cer", speech.basic, jiwer.process_characters),
    ):
        metric = get_metric(name)
        results = [
            RowResult(id=str(i), answer=a, reference=r, score=metric.compare(a, r), weight=metric.weigh(r))
            for i, (a, r) in enumerate(pairs)
        ]
        plain = [(normalise(a), normalise(r)) for a, r in pairs if normalise(r)]
        if not plain:
            continue
        whole = count([r for _, r in plain], [a for a, _ in plain])
        wanted = whole.wer if name != "cer" else whole.cer
        assert figure_of(results, name) == pytest.approx(wanted)
        assert summary(results, name).value == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "answer", "reference", "rate"),
    [
        ("wer_english", " 7.", "seven", 0.0),
        ("wer", " 7.", "seven", 1.0),
        ("wer", "Seven!", "seven", 0.0),
        ("wer_exact", "Seven!", "seven", 1.0),
        ("wer_english", "I won't um go", "i will not go", 0.0),
        ("wer", "a b c d", "a x", 1.5),
        ("cer", "abd", "abc", 1 / 3),
        ("wer", "", "one two", 1.0),
    ],
)
def test_texts_are_normalised_as_is_said(name, answer, reference, rate):
    assert get_metric(name).compare(answer, reference) == pytest.approx(rate)
    assert not get_metric(name).higher_is_better


def test_no_error_on_few_rows_is_no_certainty_and_rates_beyond_one_have_no_bound():
    right = [RowResult(id=str(i), answer="a", reference="a", score=0.0) for i in range(20)]
    found = summary(right, "wer")
    assert found.low == found.value == 0.0 and 0.1 < found.high < 0.25
    wrong = [r.model_copy(update={"score": 2.0 + i % 2}) for i, r in enumerate(right)]
    assert summary(wrong, "wer").high > 2.5


def test_word_errors_need_jiwer_and_a_task_that_writes(monkeypatch):
    with pytest.raises(RecipeError, match="generates none"):
        check_metric("wer", get_task("audio-classification"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="jiwer") as found:
        check_metric("wer", TASK)
    assert "tunewright[metrics]" in str(found.value)


def test_drift_is_the_divergence_at_the_texts_tokens(model):
    base, tuned = seeded(whisper).eval(), seeded(whisper, 1).eval()
    given_rows = [encoded("low", base), encoded("the higher", base)]
    with torch.no_grad():
        found = kl_by_row(take_reference(base, TASK, given_rows), tuned)
        for row, value in zip(given_rows, found, strict=True):
            batch = TASK.collate([row])
            p, q = (TASK.forward(m, batch).logits.log_softmax(-1) for m in (base, tuned))
            assert value == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, "text")
    whisper_folder(tmp_path / "base")
    return tmp_path


@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 4}}], ["full", {"asft": {}}]])
def test_a_run_measures_resumes_goes_out_and_writes(methods, folder):
    out = folder / "run"
    keep = [{"name": "others", "data": "train.jsonl"}]
    run(recipe(folder, TASK.name, methods=methods, keep=keep), out, quiet=True)
    report = Report.load(out)
    assert report.target.metric == "wer_english" and report.target.n == 4 and report.drift.measure == "kl"
    assert report.drift.value.value > 0 and report.kept[0].before.value > report.kept[0].after.value
    resume(out, verify=True, quiet=True)
    export(out, folder / "model")
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder / "model").eval()
    processor = AutoProcessor.from_pretrained(folder / "model")
    finished = Run(out)
    for line in read_rows(out / "rows.jsonl"):
        name = line.prompt.split(",")[0]
        said = finished.generate(name, max_new_tokens=8)
        row = TASK.encode(
            Record({"audio": name, "text": "x"}, id="r", base=str(folder)), READS, finished._loaded.options
        )
        heard = processor(row.fields["audio"], sampling_rate=16_000, return_tensors="pt")
        ids = model.generate(heard.input_features, max_new_tokens=8, do_sample=False)[0]
        assert said == processor.decode(ids, skip_special_tokens=True).strip()
    assert finished.generate([name, {"audio": name}], max_new_tokens=3, strength=0.0)[0] is not None
    with pytest.raises(MethodError, match="reads recordings and no text"):
        finished.chat()


def test_a_transcript_longer_than_the_limit_is_written_to_its_end(folder, monkeypatch):
    seen = []
    write = type(TASK).write
    monkeypatch.setattr(type(TASK), "write", lambda s, m, t, p, n, **h: seen.append(n) or write(s, m, t, p, n, **h))
    run(recipe(folder, TASK.name, measurement={"max_new_tokens": 1, "strengths": [1]}), folder / "run", quiet=True)
    longest = max(len(READS(f" {t}", add_special_tokens=False).input_ids) for t in ("low", "high")) + 1
    assert min(seen) > longest


def test_two_models_are_measured_as_their_run_reports(folder):
    measured = {"drift_sequences": 8, "strengths": [1]}
    report = run(recipe(folder, TASK.name, measurement=measured), folder / "run", quiet=True).report
    pair = measure(Request([str(folder / "base")], [str(folder / "run")]))
    assert pair.task == TASK.name
    for side in ("before", "after", "difference"):
        assert getattr(pair.target, side) == getattr(report.target, side)
    assert pair.drift.value.value == pytest.approx(report.drift.value.value, rel=1e-4)


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ({"audio": "clips/none.wav", "text": "low"}, "audio", "no file"),
        ({"audio": "clips/0.wav", "text": ""}, "text", "empty"),
        ({"audio": "clips/0.wav", "text": "low", "language": "de"}, "language", "no language"),
        ({"audio": "clips/0.wav", "label": "low"}, "text", "missing"),
    ],
)
def test_check_names_the_row_the_field_and_the_remedy(line, field, said, folder):
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    (problem,) = check_recipe(recipe(folder, TASK.name)).bad_rows
    assert (problem.where, problem.field) == ("train.jsonl:9", field) and said in problem.reason and problem.remedy


def test_init_writes_a_recipe_for_recordings_with_texts(folder):
    text = starter(str(folder / "base"), folder / "train.jsonl")
    assert "task: automatic-speech-recognition" in text and "max_length" not in text


def test_a_model_of_texts_does_no_speech(folder):
    from tests import tiny

    tiny.llama().save_pretrained(folder / "base")
    with pytest.raises(ModelError, match="does not do automatic-speech-recognition"):
        check_recipe(recipe(folder, TASK.name))


def test_no_fresh_model_is_drawn_for_recordings(folder):
    with pytest.raises(ModelError, match="reads recordings"):
        check_recipe(recipe(folder, TASK.name, model={"config": {"model_type": "whisper"}}))


# -- CTC ---------------------------------------------------------------------------------------------------------------


def ctc(tmp_path, norm="group", kind="Wav2Vec2ForCTC"):
    from transformers import Wav2Vec2FeatureExtractor

    model = seeded(lambda: wav2vec2(kind, norm=norm, vocab_size=len(ALPHABET), pad_token_id=0)).eval()
    return model, ctc_tokenizer(tmp_path), Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")


@pytest.mark.parametrize(
    ("norm", "kind"), [("group", "Wav2Vec2ForCTC"), ("layer", "Wav2Vec2ForCTC"), ("group", "HubertForCTC")]
)
def test_the_loss_of_a_ctc_model_is_its_own_row_by_row(norm, kind, tmp_path):
    model, reads, extractor = ctc(tmp_path, norm, kind)
    texts = ("LOW", "HIGH", "WHO GOGO")
    given_rows = [
        encoded(t, model, reads=reads, extractor=extractor, seconds=0.2 + 0.1 * i) for i, t in enumerate(texts)
    ]
    batch = TASK.collate(given_rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        values = TASK.loss(out, batch).value
        for k, row in enumerate(given_rows):
            plain = extractor(row.fields["audio"], sampling_rate=16_000, return_tensors="pt")
            own = model(**plain, labels=torch.tensor([row.input_ids])).loss  # ctc_loss_reduction: sum
            torch.testing.assert_close(values[batch.rows == k].sum(), own, rtol=1e-4, atol=1e-4)
    assert row.input_ids == [ALPHABET[c] for c in "WHO|GOGO"] and batch.weights.tolist() == [1.0] * 15
    assert len(out.hidden) == 3 and out.hidden[0].shape[0] == 3
    with pytest.raises(MethodError, match="at each place of a recording"):
        _ = out.logits


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_ctc_model_says_its_likeliest_tokens(norm, tmp_path):
    model, reads, extractor = ctc(tmp_path, norm)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    given_rows = [encoded("LOW", model, reads=reads, extractor=extractor, seconds=0.2 + 0.1 * i) for i in range(3)]
    for row, result in zip(given_rows, evaluate(model, reads, TASK, given_rows, "cer"), strict=True):
        plain = extractor(row.fields["audio"], sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            ids = model(**plain).logits.argmax(-1)[0]
        assert result.answer == reads.decode(ids) and result.answer


def test_double_letters_stay_two(tmp_path, monkeypatch):
    model, reads, extractor = ctc(tmp_path)
    said = [ALPHABET[c] for c in "GOO"] + [0, ALPHABET["O"]]
    logits = F.one_hot(torch.tensor([said]), len(ALPHABET)).float()
    row = encoded("LOW", model, reads=reads, extractor=extractor)
    monkeypatch.setattr(_ctc, "frames", lambda *a, **k: (logits, None))
    monkeypatch.setattr(_ctc, "places", lambda *a: torch.tensor([5]))
    (result,) = evaluate(model, reads, TASK, [row], "wer_exact")
    assert result.answer == reads.decode(said) == "GOO"


@pytest.mark.parametrize(
    ("text", "seconds", "field", "said"),
    [("low", 0.3, "text", "lacks l o w"), ("LOW!", 0.3, "text", "lacks !"), ("LOGO" * 40, 0.1, "audio", "too short")],
)
def test_texts_that_a_ctc_model_cannot_say_are_refused(text, seconds, field, said, tmp_path):
    model, reads, extractor = ctc(tmp_path)
    with pytest.raises(RowProblem) as found:
        encoded(text, model, reads=reads, extractor=extractor, seconds=seconds)
    assert found.value.field == field and said in found.value.reason


@given(st.integers(25, 3000))
@settings(max_examples=30, deadline=None)
def test_places_are_those_that_the_model_counts(samples):
    model = seeded(lambda: wav2vec2("Wav2Vec2ForCTC", vocab_size=9, pad_token_id=0))
    pairs = list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))
    counted = model._get_feat_extract_output_lengths(torch.tensor([samples]))
    assert torch.equal(_ctc.places(torch.tensor([samples]), pairs), counted)


def test_drift_of_a_ctc_model_is_the_divergence_at_its_places(tmp_path):
    base, reads, extractor = ctc(tmp_path)
    tuned = seeded(lambda: wav2vec2("Wav2Vec2ForCTC", vocab_size=len(ALPHABET), pad_token_id=0), 1).eval()
    given_rows = [encoded("LOW", base, reads=reads, extractor=extractor, seconds=s) for s in (0.2, 0.3)]
    task = TASK.compared(base.config)
    assert task is not TASK and TASK.compared(whisper().config) is TASK
    for row, value in zip(given_rows, kl_by_row(take_reference(base, task, given_rows), tuned), strict=True):
        plain = extractor(row.fields["audio"], sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            p, q = (m(**plain).logits[0].log_softmax(-1) for m in (base, tuned))
        assert value == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)


@pytest.fixture
def ctc_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, "text", str.upper)
    ctc_folder(tmp_path / "base")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 4}}, {"online-ewc": {}}]])
def test_a_ctc_model_runs_learns_resumes_and_goes_out(methods, ctc_place):
    out = ctc_place / "run"
    keep = [{"name": "others", "data": "train.jsonl"}]
    made = recipe(ctc_place, TASK.name, methods=methods, keep=keep, budget={"steps": 20})
    assert not check_recipe(made).report.errors
    run(made, out, quiet=True)
    report = Report.load(out)
    assert report.target.metric == "wer" and report.drift.measure == "kl" and report.drift.value.value > 0
    assert report.kept[0].after.value < report.kept[0].before.value
    resume(out, verify=True, quiet=True)
    export(out, ctc_place / "model")
    from transformers import AutoModelForCTC, AutoProcessor

    model = AutoModelForCTC.from_pretrained(ctc_place / "model").eval()
    processor = AutoProcessor.from_pretrained(ctc_place / "model")
    finished = Run(out)
    row = TASK.encode(
        Record({"audio": "clips/9.wav", "text": "LOW"}, id="r", base="."), finished.tokenizer, finished._loaded.options
    )
    with torch.no_grad():
        heard = processor(row.fields["audio"], sampling_rate=16_000, return_tensors="pt")
        said = processor.decode(model(**heard).logits.argmax(-1)[0])
    assert finished.generate("clips/9.wav") == said


def test_objectives_and_metrics_of_likelihoods_are_refused_alike_on_a_ctc_model(ctc_place):
    for changes, said in (
        ({"methods": ["full", "asft"]}, "'asft' trains likelihoods of targets"),
        ({"measurement": {"metric": "mean_token_accuracy"}}, "'mean_token_accuracy' reads likelihoods of targets"),
    ):
        made = recipe(ctc_place, TASK.name, **changes)
        (error,) = check_recipe(made).report.errors
        texts = [str(error)]
        for call in (lambda m=made: plan(m, quiet=True), lambda m=made: run(m, ctc_place / "no", quiet=True)):
            with pytest.raises((MethodError, RecipeError)) as found:
                call()
            texts.append(str(found.value))
        assert said in texts[0] and len(set(texts)) == 1


def test_specaugment_is_off_and_it_is_said(ctc_place):
    from tunewright.loading.load import load

    at = ctc_place / "base" / "config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), "apply_spec_augment": True}))
    loaded = load(str(ctc_place / "base"), TASK)
    assert not loaded.model.config.apply_spec_augment and any("SpecAugment is off" in n for n in loaded.notes)


def test_new_tokens_have_no_place_in_a_ctc_model(ctc_place):
    errors = check_recipe(recipe(ctc_place, TASK.name, new_tokens=["<noise>"])).report.errors
    assert "no embedding to add to" in str(errors[0])
