"""Recordings are read as whoever made them hears them, and what is none is refused in one message."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from tunewright.conformance.task_sounds import tone
from tunewright.contract.records import RowProblem
from tunewright.errors import MissingExtraError
from tunewright.tasks._recordings import SHORTEST, read_recording, resampled

RATE = 16_000


def heard(value, base=".", *, rate=RATE, longest=30.0, stated=None):
    return read_recording(value, str(base), rate, longest, stated)


def refused(value, base=".", **how):
    with pytest.raises(RowProblem) as found:
        heard(value, base, **how)
    assert found.value.remedy
    return found.value


def encoded(samples, rate=RATE, form="WAV", **how):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, **how)
    return out.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "OGG", "MP3"])
@pytest.mark.parametrize("way", ["path", "bytes", "datasets", "datasets-path", "wrong ending"])
def test_files_are_decoded_by_what_stands_in_them(form, way, tmp_path):
    sound = tone(440, 0.5, rate=RATE)
    raw = encoded(sound, form=form)
    name = "clip.txt" if way == "wrong ending" else f"clip.{form.lower()}"
    (tmp_path / name).write_bytes(raw)
    value = {
        "bytes": raw,
        "datasets": {"bytes": raw, "path": "gone.wav"},
        "datasets-path": {"bytes": None, "path": name},
    }
    got = heard(value.get(way, name), tmp_path)
    lossy = form in ("OGG", "MP3")
    assert got.dtype == np.float32 and abs(len(got) - len(sound)) <= (4000 if lossy else 0)
    if not lossy:
        assert np.abs(got - sound).max() < 2 / 32768
    else:  # the tone is the same
        assert np.abs(np.fft.rfft(got[2000:6000])).argmax() == pytest.approx(110, abs=1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_every_width_of_samples_is_brought_to_one_scale(subtype):
    sound = tone(300, 0.2, rate=RATE)
    coarse = {"PCM_U8": 0.01, "ULAW": 0.03}.get(subtype, 1e-4)
    assert np.abs(heard(encoded(sound, subtype=subtype)) - sound).max() < coarse


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32, np.float64, list])
def test_arrays_are_scaled_by_their_type(kind):
    sound = tone(300, 0.2, rate=RATE)
    full = {np.int16: 2**15, np.int32: 2**31, np.uint8: 2**7}.get(kind)
    if kind is list:
        given = [int(x) for x in np.rint(sound * 2**15)]
    elif full:
        given = (np.rint(sound.astype(np.float64) * full) + (128 if kind is np.uint8 else 0)).astype(kind)
    else:
        given = sound.astype(kind)
    for got in (heard({"array": given, "sampling_rate": RATE}), heard(given, stated=RATE)):
        assert np.abs(got - sound).max() < (0.01 if kind is np.uint8 else 1e-4)


@pytest.mark.parametrize("way", ["file", "frames first", "channels first"])
def test_channels_are_averaged(way):
    two = np.stack([tone(300, 0.2, 1, RATE), tone(500, 0.2, 2, RATE)], 1)
    given = {"file": encoded(two, subtype="FLOAT"), "frames first": two, "channels first": two.T}[way]
    assert np.allclose(heard(given, stated=RATE), two.mean(1), atol=1e-6)


@pytest.mark.parametrize("own", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_and_keep_their_pitch(own):
    got = heard(encoded(tone(440, 0.5, rate=own), own))
    assert len(got) == -(-(own // 2) * RATE // own)
    spectrum = np.abs(np.fft.rfft(got[400:-400]))
    assert spectrum.argmax() * RATE / (len(got) - 800) == pytest.approx(440, abs=3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1_000, 96_000), st.sampled_from([8_000, 16_000, 24_000]), st.integers(100, 900))
def test_resampling_is_scipys_and_has_the_length_that_it_should(own, rate, n):
    sound = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
    got = resampled(sound, own, rate)
    assert len(got) == -(-n * rate // own) and got.dtype == np.float32
    assert np.array_equal(got, resample_poly(sound, rate, own).astype(np.float32))


def test_a_resampled_constant_stays_one_within_its_edges():
    assert np.allclose(resampled(np.full(4000, 0.25, np.float32), 8_000, 16_000)[200:-200], 0.25, atol=1e-3)


SOUND = tone(440, 0.5, rate=RATE)
NAN = SOUND.copy()
NAN[7] = np.nan
BAD = {
    "null": (None, "missing"),
    "no file": ("none.wav", "no file 'none.wav'"),
    "a folder": (".", "is no file"),
    "an empty file": (b"", "is empty"),
    "no recording": (b"not a recording at all, but a text", "cannot be read as a recording"),
    "a WAV that is cut off": (encoded(SOUND)[:4000], "cut off"),
    "a FLAC that is cut off": (encoded(SOUND, form="FLAC")[:3000], "lost sync"),
    "no samples": (encoded(SOUND[:0]), "no samples"),
    "silence": (encoded(np.zeros(8000)), "silent"),
    "an offset alone": (encoded(np.full(8000, 0.5)), "silent"),
    "NaN": (encoded(NAN, subtype="FLOAT"), "not finite"),
    "whole numbers in float": (encoded(SOUND * 9000, subtype="FLOAT"), "must lie in -1..1"),
    "too short": (encoded(SOUND[: int(RATE * SHORTEST) - 1]), "24.9 ms"),
    "too long": (encoded(tone(440, 30.1, rate=RATE)), "30.1 s long, and the model reads 30 s"),
    "samples that are no list": ({"array": "loud", "sampling_rate": RATE}, "list of samples"),
    "rows of unequal length": ({"array": [[0.1], [0.1, 0.2]], "sampling_rate": RATE}, "list of samples"),
    "three dimensions": ({"array": np.zeros((3, 3, 3)), "sampling_rate": RATE}, "no recording"),
    "whole numbers of 24 bits": ({"array": [100_000, -5], "sampling_rate": RATE}, "100,000"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_recording_is_said_with_its_remedy(what, tmp_path):
    value, said = BAD[what]
    problem = refused(value, tmp_path)
    assert problem.field == "audio" and said in problem.reason


@pytest.mark.parametrize("rate", [None, 0, -16_000, 3.5, "fast", float("nan"), 10**9])
def test_samples_need_a_rate(rate):
    problem = refused({"array": SOUND, "sampling_rate": rate} if rate is not None else {"array": SOUND})
    assert problem.field == "sampling_rate" and "rate" in problem.reason


def test_a_file_whose_header_says_no_rate_is_refused():
    raw = bytearray(encoded(SOUND))
    raw[24:28] = (0).to_bytes(4, "little")
    assert "rate" in refused(bytes(raw)).reason.lower() or "cannot be read" in refused(bytes(raw)).reason


def test_a_stream_that_states_no_size_is_no_cut_file():
    raw = bytearray(encoded(SOUND))
    at = raw.index(b"data") + 4
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(heard(bytes(raw))) == len(SOUND)


def test_long_recordings_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "long.wav").write_bytes(encoded(np.zeros(RATE * 40)))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *a, **k: pytest.fail("it was decoded"))
    assert "40.0 s long" in refused("long.wav", tmp_path).reason


def test_without_soundfile_files_are_one_message_and_samples_are_read(monkeypatch):
    raw = encoded(SOUND)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match="soundfile") as found:
        heard(raw)
    assert "pip install 'tunewright[audio]'" in str(found.value)
    assert len(heard(SOUND, stated=RATE)) == len(SOUND)


def npz(folder, **changes):
    offsets = np.array([0, 3000, 7000, 12000])
    audio = (tone(300, 1.5) * 32767).astype(np.int16)
    arrays = {"audio": audio, "offsets": offsets, "sampling_rate": 8000, "digit": np.array([7, 0, 7], np.uint8)}
    arrays |= {"speaker": np.array([1, 0, 1]), "speaker_names": np.array(["ann", "bo"])}
    np.savez_compressed(folder / "d.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
    return arrays


def rows_of(folder, **how):
    from tunewright.data.read import read_all
    from tunewright.recipe import Source

    return read_all(Source(path="d.npz", **how), folder)


def test_an_npz_of_recordings_gives_a_row_each(tmp_path):
    arrays = npz(tmp_path)
    read = rows_of(tmp_path, columns={"label": "digit"})
    assert not read.problems and [r["label"] for r in read.records] == [7, 0, 7]
    assert [r["speaker"] for r in read.records] == ["bo", "ann", "bo"]
    assert [r.where for r in read.records] == ["d.npz:1", "d.npz:2", "d.npz:3"]
    for k, record in enumerate(read.records):
        part = arrays["audio"][arrays["offsets"][k] : arrays["offsets"][k + 1]]
        assert np.array_equal(record["audio"]["array"], part) and record["audio"]["sampling_rate"] == 8000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling_rate": None}, "rate is not said"),
        ({"sampling_rate": np.array([8000, 8000])}, "sampling_rate has the shape"),
        ({"offsets": np.array([0, 9000, 7000, 12000])}, "offsets"),
        ({"offsets": np.array([0, 3000, 7000, 13000])}, "offsets"),
        ({"offsets": None}, "offsets"),
        ({"digit": np.array([1, 2])}, "digit has the shape"),
        ({"audio": np.array(["a", "b"])}, "npz"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(changes, said, tmp_path):
    from tunewright.errors import DataError

    npz(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        rows_of(tmp_path)


def test_a_place_without_a_name_is_a_bad_row(tmp_path):
    npz(tmp_path, speaker=np.array([1, 5, 1]))
    (problem,) = rows_of(tmp_path).problems
    assert problem.where == "d.npz:2" and "5 is the place of none" in problem.reason


@pytest.mark.parametrize("name", ["text", "transcription", "sentence"])
def test_columns_of_transcripts_are_known(name, tmp_path):
    from tunewright.data.shapes import canonical

    values, shape = canonical({"audio": "a.wav", name: "seven"}, {})
    assert shape == "audio-text" and values["text"] == "seven"
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(encoded(SOUND))
    (tmp_path / "clips" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", name: "seven"}))
    from tunewright.data.read import read_all
    from tunewright.recipe import Source

    (record,) = read_all(Source(path="clips"), tmp_path).records
    assert (record["audio"], record["text"]) == ("a.wav", "seven")
    assert len(heard(record["audio"], record.base)) == len(SOUND)
