r"""Flow matching of digits beside a DDPM: how good samples are after how many evaluations.

The same U-Net, optimiser, steps and batches for all; they differ in the path from noise to data
and in the sampler. 1,000 samples each; scores are of the data's own classifier's features, against
training images; the floor is that of held-out ones.

    python experiments/flow_matching.py --results
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ddpm_images import config as ddpm_config
from recipe import Args, digits, directory, draw, finish, run, scores, titled, train

from gengen.diffusion import ddpm
from gengen.flow_matching import flow_matching

EVALUATIONS = (2, 4, 10, 20, 50)
DDPM_EVALUATIONS = (10, 20, 50, 250)
VARIANTS: dict[str, dict[str, Any]] = {
    "flow matching": {},
    "flow matching, optimal coupling": {"coupling": "optimal"},
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 4000
    """Train steps, of each model."""
    samples: int = 1000
    """Of each model and number of evaluations."""


def config(steps: int) -> flow_matching.Config:
    """Return the model of so many train steps: the network and optimiser of `ddpm_images`."""
    same = {field.name for field in dataclasses.fields(flow_matching.Config)}
    other = dataclasses.asdict(ddpm_config(steps))
    shared = {name: value for name, value in other.items() if name in same - {"sample_steps"}}
    return flow_matching.Config(**shared)


def main(args: Settings) -> None:
    """Train the variants and a DDPM; sample; score."""
    (data, held_out, _), out = digits(), directory(args, "flow_matching")
    metrics: dict[str, dict[str, float]] = {}
    shown = []

    def score(title: str, steps: int, sampler: Any) -> None:
        drawn = draw(args.samples, sampler, args.seed)
        found = next(iter(scores(drawn, data, held_out).items()))
        metrics[f"{found[0]}, {title}, {steps} evaluations"] = found[1]
        if steps in (2, 20, 250):
            shown.append((f"{title}, {steps} evaluations", 2.0 * drawn[:16] / 255 - 1))

    for title, change in VARIANTS.items():
        cfg = dataclasses.replace(config(args.steps), **change)
        own = out if title == "flow matching" else out / "optimal"
        variables = train(flow_matching, cfg, data, own, args).variables
        for steps in EVALUATIONS:
            fast = flow_matching.with_evaluations(cfg, steps)
            score(title, steps,
                  lambda k, n, c=fast, v=variables: flow_matching.sample(c, v, k, n))  # fmt: skip
    cfg = ddpm_config(args.steps)
    variables = train(ddpm, cfg, data, out / "ddpm", args).variables
    for steps in DDPM_EVALUATIONS:
        slow = dataclasses.replace(cfg, sampler="ddim", eta=1.0, sample_steps=steps)
        score("DDPM, η = 1", steps,
              lambda k, n, c=slow, v=variables: ddpm.sample(c, v, k, n))  # fmt: skip
    titled(out / "samples.png", shown)
    finish("flow_matching_mnist5k", out, metrics, args, ("samples",))


if __name__ == "__main__":
    run(main, Settings, __doc__)
