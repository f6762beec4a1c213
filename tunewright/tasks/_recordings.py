"""Recordings as one channel of samples in float32, at the rate that a model wants.

Files are decoded by soundfile (libsndfile: WAV, FLAC, OGG, MP3, AIFF and more; by what stands in them, whatever their
ending), channels are averaged, and other rates are brought to the model's by `scipy.signal.resample_poly`.
"""

from __future__ import annotations

import io
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.records import RowProblem, finite
from tunewright.errors import MissingExtraError

RATES = (1_000, 768_000)
"""Samples a second that recordings have, at least and at most."""
SHORTEST = 0.025
"""Seconds; of less no model makes a feature."""
MOST = 1 << 28
"""Samples, of all channels, that are decoded: a gigabyte."""
LOUDEST = 2.0
"""Largest sample in float: full scale is 1, and what filters and codecs add to it is little."""
CHANNELS = 16
_UNKNOWN = 0x7FFFFF00  # bytes: the size that a WAV file written to a pipe states
_STATED = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_FORMATS = "write a WAV, FLAC, OGG or MP3 file"

Samples = NDArray[np.float32]


def read_recording(value: Any, base: str, rate: int, longest: float | None, stated: Any = None) -> Samples:
    """Samples [n] at `rate`, of a path, encoded bytes, a mapping with `bytes`, `path`, or `array` and `sampling_rate`
    (as `datasets` writes it), or plain samples [n] or [n, channels] with the rate `stated` beside them.

    Samples are whole numbers of 16 bits (of numpy arrays: of their type's range), or floats of -1..1. RowProblem for
    what is none, is silent, not finite, shorter than SHORTEST or longer than `longest` seconds; MissingExtraError
    without soundfile.
    """
    samples, own = _given(value, base, longest, stated)
    if not samples.size:
        raise _problem("it holds no samples", "take it out, or record it again")
    if not np.isfinite(samples).all():
        raise _problem("some samples are not finite", "record or convert it again, or take it out")
    if (loudest := float(np.abs(samples).max())) > LOUDEST:
        raise _problem(f"samples in float must lie in -1..1: they reach {loudest:g}", "divide them by their full scale")
    mono = samples.mean(1, dtype=np.float32) if samples.ndim == 2 else samples
    _check_length(len(mono), own, longest)
    if float(mono.max()) == float(mono.min()):
        raise _problem("it is silent: all samples are equal", "take it out, or record it again")
    return resampled(mono, own, rate)


def resampled(samples: Samples, own: int, rate: int) -> Samples:
    """Samples [n] of one rate at another: ceil(n rate / own) of them."""
    if own == rate:
        return np.ascontiguousarray(samples, np.float32)
    from scipy.signal import resample_poly

    common = math.gcd(own, rate)
    return np.ascontiguousarray(resample_poly(samples, rate // common, own // common), np.float32)


def _given(value: Any, base: str, longest: float | None, stated: Any) -> tuple[NDArray[Any], int]:
    """Samples [n] or [n, channels] in float32, and their rate."""
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            return _samples(value["array"]), _rate(value.get("sampling_rate", stated))
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        path = Path(base) / value
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise _problem(f"'{value}' is no file", "write the path of a recording")
            with path.open("rb") as file:  # given a path, libsndfile would go by its ending
                return _decoded(file, longest)
        except FileNotFoundError:
            raise _problem(f"no file '{value}'", "write the path relative to the data file") from None
        except OSError as error:
            raise _problem(f"'{value}' cannot be opened: {error.strerror}", "write another path") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(value), longest)
    if value is None:
        raise _problem("the recording is missing (null)", "write its path from the data file")
    return _samples(value), _rate(stated)


def _decoded(file: IO[bytes], longest: float | None) -> tuple[NDArray[Any], int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # its wheel holds libsndfile, a plain install may lack it
        what = f"recordings are decoded by soundfile, which cannot be had here ({error})"
        raise MissingExtraError(what, where="audio", remedy="pip install 'tunewright[audio]'") from None
    if not file.read(1):
        raise _problem("the file is empty", "take it out, or record it again")
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            own, stated = _rate(sound.samplerate), sound.frames
            if stated * sound.channels > MOST and longest is None:
                raise _problem(f"it is too long: {stated / own:,.0f} s", "cut it into pieces")
            _check_length(stated, own, longest, shortest=0.0)
            samples = sound.read(dtype="float32", always_2d=True)
            told, counts = _STATED.search(sound.extra_info), sound.format != "MP3"  # whose length is a guess
    except RowProblem:
        raise
    except MemoryError:
        raise _problem("there is not the memory to open it", "cut it into pieces, or take it out") from None
    except Exception as error:  # decoders of damaged files raise whatever they come upon
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        said = re.sub(r"^Error opening <[^>]*>: ", "", said)[:300]
        raise _problem(f"cannot be read as a recording: {said}", _FORMATS) from None
    cut = told is not None and int(told[2]) < int(told[1]) < _UNKNOWN
    if counts and len(samples) < stated or cut:
        had = f"{len(samples):,} samples are there"
        raise _problem(f"the file is cut off: {had}, and it should hold more", "copy or download it again")
    return samples, own


def _samples(value: Any) -> NDArray[Any]:
    """Samples [n] or [n, channels] in float32, of an array or of lists."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):
        given = np.asarray(None)
    if given.dtype.kind not in "iuf":
        raise _problem("a path or a list of samples is needed", 'write "clip.wav", or {"array": [...], ...}')
    if given.ndim == 2 and given.shape[0] <= CHANNELS < given.shape[1]:
        given = given.T  # channels first, as torch has them
    if given.ndim not in (1, 2) or given.ndim == 2 and given.size and given.shape[1] > CHANNELS:
        raise _problem(f"samples of shape {given.shape} are no recording", "write [samples] or [samples][channels]")
    if given.dtype.kind == "f":
        return given.astype(np.float32)
    if given.dtype == np.uint8:
        return (given.astype(np.float32) - 128) / 128
    bits = 16 if given.dtype.itemsize == 8 else 8 * given.dtype.itemsize  # lists of numbers have no type of their own
    full = float(1 << (bits - 1))
    if given.size and (given.min() < -full or given.max() >= full):
        reach = max(abs(int(given.min())), abs(int(given.max())))
        raise _problem(f"whole samples must be of 16 bits: they reach {reach:,}", "divide them down to floats of -1..1")
    return (given / full).astype(np.float32)


def _rate(value: Any) -> int:
    if value is None:
        raise RowProblem(
            "sampling_rate",
            "samples have no rate of their own, and the row names none",
            'write {"array": [...], "sampling_rate": 16000}, or a column sampling_rate',
        )
    number = finite(value)
    if number is None or number != int(number) or not RATES[0] <= number <= RATES[1]:
        shown = f"{value!r:.40}"
        raise RowProblem("sampling_rate", f"{shown} is no rate of a recording", "write samples a second, such as 16000")
    return int(number)


def _check_length(count: int, rate: int, longest: float | None, shortest: float = SHORTEST) -> None:
    seconds = count / rate
    if longest is not None and seconds > longest:
        remedy = f"cut it into pieces of {longest:g} s at most, each a row of its own"
        raise _problem(f"it is {seconds:,.1f} s long, and the model reads {longest:g} s", remedy)
    if seconds < shortest:
        raise _problem(f"it is {1000 * seconds:.3g} ms long, of which no feature is made", "take it out")


def _problem(reason: str, remedy: str) -> RowProblem:
    return RowProblem("audio", reason, remedy)
