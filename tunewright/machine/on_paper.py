"""Machines as `tunewright plan --on` names them: how many of which processor, and what their makers say of them.

Peaks are of dense products (no sparsity); the memory's and the link's speed are those of the makers' data sheets, a
link's in one direction. Nothing is measured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tunewright.errors import RecipeError, did_you_mean


@dataclass(frozen=True)
class Device:
    """One processor. `memory`: bytes of each size that is sold; `half` (None: it has no bfloat16) and `single`:
    operations a second in bfloat16 and float32; `bandwidth` of its memory and `link` to the next one: bytes a second;
    `float16`: operations a second in it, where that is not `half`.
    """

    name: str
    memory: tuple[float, ...]
    half: float | None
    single: float
    bandwidth: float
    link: float
    float16: float | None = None

    def peak(self, precision: str) -> float | None:
        """Operations a second in a precision; None for one that it does not have."""
        if precision == "float32":
            return self.single
        return (self.float16 or self.half) if precision == "float16" else self.half


G, T = 1e9, 1e12
DEVICES = {
    d.name: d
    for d in (
        Device("B200", (180 * G,), 2250 * T, 75 * T, 8.0 * T, 900 * G),
        Device("H200", (141 * G,), 989 * T, 67 * T, 4.8 * T, 450 * G),
        Device("H100", (80 * G,), 989 * T, 67 * T, 3.35 * T, 450 * G),
        Device("A100", (40 * G, 80 * G), 312 * T, 19.5 * T, 1.555 * T, 300 * G),
        Device("L40S", (48 * G,), 362 * T, 91.6 * T, 0.864 * T, 32 * G),
        Device("L4", (24 * G,), 121 * T, 30.3 * T, 0.3 * T, 32 * G),
        Device("A10", (24 * G,), 125 * T, 31.2 * T, 0.6 * T, 32 * G),
        Device("T4", (16 * G,), None, 8.1 * T, 0.32 * T, 16 * G, float16=65 * T),
        Device("V100", (16 * G, 32 * G), None, 15.7 * T, 0.9 * T, 150 * G, float16=125 * T),
        Device("RTX 5090", (32 * G,), 209 * T, 104.8 * T, 1.79 * T, 64 * G),
        Device("RTX 4090", (24 * G,), 165 * T, 82.6 * T, 1.008 * T, 32 * G),
        Device("RTX 3090", (24 * G,), 71 * T, 35.6 * T, 0.936 * T, 32 * G),
        Device("MI300X", (192 * G,), 1307 * T, 163.4 * T, 5.3 * T, 448 * G),
    )
}
WRITTEN = re.compile(r"(?:(\d+)\s*[x×]\s*)?(.*?)(?:\s+(\d+)\s*gb)?", re.IGNORECASE)


@dataclass(frozen=True)
class Machines:
    """`count` of a device with so many bytes of `memory` each."""

    count: int
    device: Device
    memory: float

    def __str__(self) -> str:
        return f"{self.count}x {self.device.name} {self.memory / G:.0f}GB"


def machines(text: str) -> Machines:
    """Such as "8x H100 80GB", "RTX 4090" or "2 x a100 40gb". RecipeError for what is none."""
    match = WRITTEN.fullmatch(text.strip())
    count, name, memory = match.groups() if match else (None, text, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("amd").removeprefix("geforce")
    named = {re.sub(r"[^a-z0-9]", "", n.lower()): d for n, d in DEVICES.items()}
    device = named.get(key) or named.get(f"rtx{key}")
    if device is None:
        raise RecipeError(
            f"'{name.strip()}' is no device that is known here",
            where="--on",
            remedy=f"write it as 8x H100 80GB; {did_you_mean(name.strip(), DEVICES)}",
        )
    if count is not None and not 1 <= int(count) <= 100_000:
        raise RecipeError(f"{count} devices are none that a run has", where="--on", remedy="write a number from 1 on")
    asked = max(device.memory) if memory is None else float(memory) * G
    if asked not in device.memory:
        sizes = " or ".join(f"{m / G:.0f}GB" for m in device.memory)
        raise RecipeError(
            f"there is no {device.name} of {memory} GB", where="--on", remedy=f"write {device.name} {sizes}"
        )
    return Machines(int(count or 1), replace(device, bandwidth=_bandwidth(device, asked)), asked)


def _bandwidth(device: Device, memory: float) -> float:
    """The A100 of 80 GB has faster memory than that of 40."""
    return 2.039 * T if device.name == "A100" and memory == 80 * G else device.bandwidth
