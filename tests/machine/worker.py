"""The pool's worker, or the one that makes its records up, in a process that lacks what Linux has."""

from __future__ import annotations

import os

from tests.machine.lacking import take_away

if __name__ == "__main__":
    if os.environ["WORKER"] == "real":
        take_away(os.environ["LACKING"])
        from tunewright.trials import worker

        worker.main()
    else:
        take_away(os.environ["LACKING"], libraries=())
        from tests import fake_worker

        fake_worker.main()
