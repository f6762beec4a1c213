"""Numbers as people write them: 16k, 2.5M, 1e6, 10%."""

from __future__ import annotations

import re

_SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12, "P": 10**15}
SCALED = re.compile(r"^\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([kKMGBTP%]?)\s*$")


def parse_number(text: str) -> int | float | None:
    """Read "16k", "2.5M", "1e6", "10%" as a number (k is a thousand, M a million); None when it is not one."""
    matched = SCALED.match(text)
    if not matched:
        return None
    digits, scale = matched[1].replace("_", ""), matched[2]
    if scale == "%":
        return float(digits) / 100
    try:
        return int(digits) * _SCALES[scale]
    except ValueError:
        number = float(digits) * _SCALES[scale]
    whole = number == number and abs(number) < 2**63 and number == int(number)
    return int(number) if whole and scale else number
