"""Steps of a convolutional network whose pictures are laid channels last: `python -m benchmarks.layout [--rounds N]`.

EfficientNet-Lite0, 16 pictures of 224 x 224 of noise, one thread, forward alone and with gradients: as transformers'
`Trainer` would call it, and as a model that Tunewright has loaded. In turn, round by round; seconds are of CPU, and so
are the ratios, with the least and the most of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import machine
from tunewright.loading.efficientnet_lite import config
from tunewright.models.layout import lay_channels_last

PICTURES = 16


def seconds(do: Callable[[], object]) -> float:
    """Of CPU."""
    began = time.process_time()
    do()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    from transformers import EfficientNetForImageClassification

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, laid = (EfficientNetForImageClassification(config()) for _ in range(2))
    laid.load_state_dict(plain.state_dict())
    lay_channels_last(laid)
    x = torch.randn(PICTURES, 3, 224, 224)

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.eval()(x)

    def gradients(model: torch.nn.Module) -> None:
        model.train()(x).logits.square().mean().backward()

    told: dict[str, object] = {"machine": machine.describe("float32", 1)}
    for name, do in (("forward", forward), ("gradients", gradients)):
        do(plain), do(laid)  # the first of each makes its kernels
        rounds = [(seconds(lambda do=do: do(plain)), seconds(lambda do=do: do(laid))) for _ in range(options.rounds)]
        ratios = sorted(a / b for a, b in rounds)
        told[name] = {
            "seconds": [statistics.median(r[i] for r in rounds) for i in (0, 1)],
            "times as fast": [ratios[0], statistics.median(ratios), ratios[-1]],
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
