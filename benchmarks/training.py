"""Optimisers of the small providers on the same batches, one after the other.

    python -m benchmarks.training > benchmarks/results/VERSION/training_2_cores.json

The network, batches and schedule are those of `models/lab/Lab-0.3M`, for more and for fewer steps;
AdamW is tried at three learning rates.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

from mechlab.core.devices import cores
from models import settings
from models.modeling import Decoder
from models.train import Recipe, learning_rate, muon, next_token_loss, solutions, updates

RECIPE = Path(__file__).parents[1] / "models" / "lab" / "Lab-0.3M" / "recipe.toml"
STEPS, ADAMW_RATES = 600, (2e-3, 4e-3, 8e-3)
MUON_STEPS = (500, 600, 700, 900)


def adamw(rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01)
    )


def run(name: str, optimiser, recipe: Recipe) -> dict:
    """Mean losses of the last 20 steps before 400 and before the end; seconds a step."""
    graph, state = nnx.split(Decoder(recipe.config, rngs=nnx.Rngs(recipe.seed)))
    chosen = optimiser(learning_rate(recipe))
    update = updates(next_token_loss, graph, chosen)
    training = (state, chosen.init(state))
    losses, seconds = [], []
    for step in range(recipe.steps):
        batch = solutions(recipe, step)
        began = time.perf_counter()
        *training, value = update(*training, *batch)
        losses.append(float(value))
        seconds.append(time.perf_counter() - began)
    return {
        "optimiser": name,
        "learning_rate": recipe.learning_rate,
        "steps": recipe.steps,
        "loss_after_400": float(np.mean(losses[380:400])),
        "loss": float(np.mean(losses[-20:])),
        "seconds_a_step": float(np.median(seconds)),
    }


def main() -> None:
    recipe = dataclasses.replace(settings.read(RECIPE, Recipe), steps=STEPS)
    runs = [
        run("adamw", adamw, dataclasses.replace(recipe, learning_rate=rate)) for rate in ADAMW_RATES
    ]
    runs += [run("muon", muon, dataclasses.replace(recipe, steps=steps)) for steps in MUON_STEPS]
    found = {
        "device": jax.devices()[0].device_kind,
        "cores": cores(),
        "jax": jax.__version__,
        "batch": recipe.batch,
        "runs": runs,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
