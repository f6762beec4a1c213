"""Files that lie elsewhere (s3://, gs://, hf://, https://), through fsspec: brought into the cache once and read there;
of a streamed source one at a time, into a folder that goes when it has been read.

A file is known by what its server says of it (size, time, ETag): when that changes, it is brought anew. Keys and
accounts are those of fsspec's own libraries (environment variables, ~/.aws and the like); none stand in a recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from tunewright.data import files
from tunewright.errors import DataError, FolderError, MissingExtraError, TunewrightError, did_you_mean
from tunewright.files.cache import cache_folder

SCHEMES = ("hf", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https")
"""What an address may begin with. fsspec knows more, some of which run what they are given."""
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Remote:
    """A file elsewhere. `url` is its address, `key` changes when its server says that it did."""

    url: str
    key: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.url.split("?")[0]).name


def is_remote(path: str) -> bool:
    """Whether a source's path is an address."""
    return "://" in path


@lru_cache
def listed(url: str) -> tuple[Remote, ...]:
    """The files of an address: one, those that a pattern matches, or all of a folder that can be read.

    Raises DataError for an address without a file that can be read, MissingExtraError where a library or the network
    is missing.
    """
    scheme = url.split("://")[0]
    if scheme not in SCHEMES or "::" in url:
        raise DataError(
            f"addresses that begin with {scheme}:// are not read",
            where=url,
            remedy=f"{did_you_mean(scheme, SCHEMES)}; read are: {', '.join(f'{s}://' for s in SCHEMES)}",
        )
    with _refusing(url):
        system, path = _system(url)
        web = scheme in ("http", "https")
        if not web and _MAGIC & set(path):
            found = system.glob(path)
        elif not web and system.isdir(path):
            found = system.find(path)
        else:
            found = [path]
        kept = [p for p in sorted(found) if files.kind_of(Path(PurePosixPath(p.split("?")[0]).name))]
        if not kept:
            raise DataError(
                "there is no file that can be read",
                where=url,
                remedy=f"name files that end in {files.ENDINGS}, a folder of such, or a pattern (*)",
            )
        return tuple(Remote(p if web else system.unstrip_protocol(p), _key(system.info(p))) for p in kept)


def brought(file: Remote) -> Path:
    """The file in the cache, brought there where it is not."""
    there = _place(file)
    if not there.is_file():
        _bring(file, there)
    return there


@contextmanager
def passing(file: Remote) -> Iterator[Path]:
    """The file for as long as it is read; one that the cache holds is read there."""
    if (there := _place(file)).is_file():
        yield there
        return
    with tempfile.TemporaryDirectory(prefix="tunewright-remote-") as aside:
        _bring(file, Path(aside) / file.name)
        yield Path(aside) / file.name


def _place(file: Remote) -> Path:
    """Where the cache has the file, or would."""
    return cache_folder() / "remote" / hashlib.sha256(f"{file.url}\0{file.key}".encode()).hexdigest()[:40] / file.name


def _bring(file: Remote, to: Path) -> None:
    """Write the file to `to`, whole or not at all."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".bringing-", dir=to.parent)
        os.close(handle)
    except OSError as error:
        raise FolderError(
            f"the file cannot be kept: {error.strerror or error}",
            where=str(to.parent),
            remedy="free space, or set TUNEWRIGHT_CACHE to a folder that may be written",
        ) from None
    try:
        with _refusing(file.url):
            system, path = _system(file.url)
            system.get_file(path, aside)
        Path(aside).replace(to)
    finally:
        Path(aside).unlink(missing_ok=True)


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, path


def _key(about: dict[str, Any]) -> str:
    """What a server says of a file, as far as it does not change with the asking."""
    said = {k: str(v) for k, v in about.items() if k not in ("accessed", "atime")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:20]


@contextmanager
def _refusing(url: str) -> Iterator[None]:
    """Turn what fsspec's libraries raise into what a user can act on."""
    try:
        yield
    except TunewrightError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"reading {url.split('://')[0]}:// needs a library that is missing ({error})",
            where=url,
            remedy="pip install 'tunewright[remote]'",
        ) from None
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # what fsspec makes of a server that does not answer
            raise _unreachable(url, error.__cause__) from None
        raise DataError("there is no such file", where=url, remedy="check the address") from None
    except PermissionError:
        raise DataError("the file may not be read", where=url, remedy="check the account that is used") from None
    except Exception as error:  # of a server, or of any of a dozen libraries
        raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> MissingExtraError:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return MissingExtraError(
        f"the address cannot be read ({type(error).__name__}: {said})",
        where=url,
        remedy="check the address, the account and the network, or download the file and give its path",
    )
