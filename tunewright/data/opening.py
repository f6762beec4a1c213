"""Files of bytes and text, compressed or not. What cannot be text is refused before it is read."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tunewright.data.raw import Mark
from tunewright.errors import DataError

COMPRESSED = ("gz", "zst")
"""Endings of compressed files, behind the ending of what is in them."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD = 4096


def opened(path: Path) -> Any:
    """A file's bytes, decompressed as its ending says: a buffered stream with `peek`."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith(".zst"):
        import pyarrow

        return io.BufferedReader(_Zstd(pyarrow.input_stream(str(path), compression="zstd")))
    return path.open("rb")


class _Zstd(io.RawIOBase):
    """pyarrow's stream as Python's: what is wrong with it is told from what is wrong with the disk."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        try:
            return int(self._stream.readinto(into))
        except OSError as error:
            if error.errno is not None:
                raise
            raise Broken("zstd", str(error)) from None

    def close(self) -> None:
        self._stream.close()
        super().close()


class Broken(Exception):
    """A compressed file that cannot be decompressed."""

    def __init__(self, kind: str, reason: str):
        self.kind = kind
        super().__init__(reason)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into a DataError that says what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        line = _line_of(path) if error.encoding == "utf-8" else None
        raise DataError(
            f"not {error.encoding.upper()} text (byte 0x{error.object[error.start]:02x})",
            where=f"{path}:{line}" if line else str(path),
            remedy="save it as UTF-8: `iconv -f latin1 -t utf-8 FILE`",
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _broken(path, "gzip", error) from None
    except Broken as error:
        raise _broken(path, error.kind, error) from None
    except PermissionError:
        raise DataError("the file may not be read", where=str(path), remedy=f"`chmod u+r {path}`") from None


def _broken(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"the {kind} file is broken: {error}", where=str(path), remedy="copy or compress it again")


def _line_of(path: Path) -> int | None:
    with opened(path) as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def lines(path: Path, mark: Mark | None = None) -> Iterator[tuple[int, str]]:
    """Decoded lines without their ends (LF or CRLF); a leading byte-order mark is taken off, binary files are
    refused. With `mark`, reading begins there, and it says at each line what lies behind it.
    """
    mark = Mark() if mark is None else mark
    with opened(path) as f:
        head = f.peek(_HEAD)[:_HEAD]
        if head.startswith(UTF_16):
            raise DataError(
                "the file is UTF-16", where=str(path), remedy="save it as UTF-8: `iconv -f utf-16 -t utf-8 FILE`"
            )
        _refuse_binary(path, head)
        _go_to(f, mark)
        for line in f:
            mark.bytes, mark.lines = mark.bytes + len(line), mark.lines + 1
            raw = line.removeprefix(codecs.BOM_UTF8) if mark.lines == 1 else line
            yield mark.lines, raw.decode("utf-8").rstrip("\r\n")


def _go_to(file: Any, mark: Mark) -> None:
    """Leave out the bytes before a mark: at once where the file lies on the disk as it is, else by reading them."""
    if isinstance(file, io.BufferedReader) and not isinstance(file.raw, _Zstd):
        file.seek(mark.bytes)
        return
    left = mark.bytes
    while left and (read := len(file.read(min(left, 1 << 20)))):
        left -= read


@contextmanager
def decoded(path: Path) -> Iterator[IO[str]]:
    """A file's text with its line ends as they stand: UTF-8, or UTF-16 where a byte-order mark says so."""
    with opened(path) as f:
        head = f.peek(_HEAD)[:_HEAD]
        wide = head.startswith(UTF_16)
        if not wide:
            _refuse_binary(path, head)
        with io.TextIOWrapper(f, "utf-16" if wide else "utf-8-sig", newline="") as text:
            yield text


def _refuse_binary(path: Path, head: bytes) -> None:
    if b"\0" in head:
        raise DataError(
            "the file is binary, not text", where=str(path), remedy="give JSONL, CSV, Parquet or plain text in UTF-8"
        )
