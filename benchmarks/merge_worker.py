"""One merge by Tunewright: FILE OUT [--forward], as `tunewright merge` does it but for the command line.

Without --forward it does what mergekit does: no forward pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tunewright.weights import fast
from tunewright.weights.mergekit_yaml import read
from tunewright.weights.stream import merge

if __name__ == "__main__":
    fast.import_lean()
    merge(read(Path(sys.argv[1]), Path(sys.argv[2])), forward="--forward" in sys.argv)
