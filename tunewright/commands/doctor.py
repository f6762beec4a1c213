"""What this machine has, and what is missing for what. Nothing is fetched: the network is not tried."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.machine import host


@dataclass(frozen=True)
class Finding:
    """One line: `status` is ok, missing (something cannot be done) or note.

    `remedy`: what to write, when there is something.
    """

    name: str
    status: Literal["ok", "missing", "note"]
    detail: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _machine() -> Iterator[Finding]:
    memory = host.total_memory()
    size = "memory unknown" if memory is None else f"{memory / 2**30:.0f} GiB"
    yield Finding(
        "machine",
        "ok",
        (
            f"{platform.system()} {platform.machine()}, {host.usable_cores()} CPU cores, {size}, Python "
            f"{platform.python_version()}"
        ),
    )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "missing", f"cannot be imported: {error}", "pip install torch")
        return
    from tunewright.machine import devices

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding(
            "GPU",
            "ok",
            f"{names}; CUDA {torch.version.cuda}; bfloat16: {'yes' if torch.cuda.is_bf16_supported() else 'no'}",
        )
    elif devices.sees("mps"):
        yield Finding("GPU", "ok", f"{host.processor()}, through Metal: write `device: mps`")
    else:
        built = torch.version.cuda or torch.version.hip
        detail = "none that torch sees" + ("" if built else "; this torch is built for the CPU only")
        yield Finding("GPU", "note", detail, None if built else "for an NVIDIA GPU install a CUDA build of torch")
    from tunewright.models.precision import measure_precision

    found = measure_precision("cpu")
    yield Finding("bfloat16", "ok" if found.precision == "bfloat16" else "note", f"precision auto means {found}")


_NAME = re.compile(r"^[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra == ['\"]([\w-]+)['\"]")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


_FOR = {
    "cluster": "fleets of runs on several machines",
    "fast": "compiled kernels of merges",
    "track": "TensorBoard",
    "wandb": "Weights & Biases",
    "mlflow": "MLflow",
    "trackio": "trackio",
    "xlsx": "sheets of .xlsx files",
    "remote": "files at https://, s3://, gs:// and az://",
    "metrics": "span F1, BLEU, chrF, ROUGE, word error rates, and JSON schemas of packs",
    "audio": "recordings in files",
    "diffusion": "pipelines that draw pictures (tasks: text-to-image, unconditional-image-generation)",
    "rl": "environments that policies play in (task: reinforcement-learning)",
    "eval": "lm-evaluation-harness's tasks (`measure --lm-eval`)",
    "serve": "`tunewright serve`: the web server, and answers held to a JSON schema",
    "tinker": "training loops over a served base, by Tinker's protocol (`serve --jobs`)",
    "language": "the language of rows (`language` of data.select)",
    "mcp": "a server for agents (`tunewright mcp`)",
    "onnx": "ONNX graphs (`export --to onnx`)",
    "peers": "parity tests and benchmarks beside other libraries",
    "dev": "tests, lint and types",
    "docs": "the documentation site",
}


def _extras() -> Iterator[Finding]:
    try:
        required = importlib.metadata.requires("tunewright") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "extras",
            "note",
            "tunewright runs from a folder and is not installed: its extras are unknown",
            "pip install -e .",
        )
        return
    by_extra: dict[str, list[str]] = {}
    for line in required:
        name, marker = _NAME.match(line), _EXTRA.search(line)
        if name and (marker is None or name[0] != "tunewright"):
            by_extra.setdefault(marker[1] if marker else "", []).append(name[0])
    for extra, names in by_extra.items():
        lacks = sorted(n for n in set(names) if not _installed(n))
        title = f"extra {extra}" if extra else "core packages"
        what = _FOR.get(extra, "everything")
        if lacks:
            requirement = f"tunewright[{extra}]" if extra else "tunewright"
            yield Finding(
                title,
                "note" if extra else "missing",
                f"for {what}: {', '.join(lacks)} not installed",
                f"pip install '{requirement}'",
            )
        else:
            yield Finding(title, "ok", f"for {what}: {', '.join(sorted(set(names)))}")


def _writable(name: str, folder: Path) -> Finding:
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return Finding(
            name,
            "missing",
            f"{folder} cannot be written: {error.strerror}",
            "make it writable, or set TUNEWRIGHT_CACHE to another folder",
        )
    return Finding(name, "ok", f"{folder} is writable, {shutil.disk_usage(nearest).free / 2**30:.0f} GiB free")


def examine() -> list[Finding]:
    """All findings, in the order they are shown."""
    from tunewright.files.cache import cache_folder

    return [
        *_machine(),
        *_torch(),
        *_extras(),
        _writable("cache folder", cache_folder()),
        Finding("network", "note", "not tried"),
    ]


def page(findings: list[Finding]) -> str:
    """Findings as text, one a line with its remedy below."""
    width = max(len(f.name) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{f.status:<8}{f.name:<{width}}  {f.detail}")
        if f.remedy:
            lines.append(" " * (width + 10) + f"-> {f.remedy}")
    return "\n".join(lines)
