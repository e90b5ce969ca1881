"""Trains small providers of sums, and a reward model that judges them, from recipes.

    python -m models.train RECIPE.toml

Beside the recipe appear the checkpoint in the Hugging Face layout, its tokenizer and the log. The
problems of a step come from the seed and the step's number alone, so a run that was killed and is
started again goes on to the same numbers.
"""

import csv
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import typer
from flax import nnx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mechlab.cli.app import run
from mechlab.core.errors import InputError
from mechlab.evidence import grading
from models import arithmetic, params, settings
from models.language_model import LM, load, log_chances
from models.modeling import Config, Decoder


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What makes a checkpoint, and nothing else does."""

    seed: int
    steps: int
    batch: int
    """Solutions a step."""
    learning_rate: float
    """At its highest, after a tenth of the steps; from there a cosine to a tenth of it."""
    hidden: int = 0
    layers: int = 0
    head_size: int = 32
    efforts: bool = False
    """Taught short, medium and long working on request."""
    trunk: str | None = None
    """The provider that this one begins as (a folder beside the recipe's), in place of a size."""
    judges: tuple[str, ...] = ()
    """Makes it a process reward model of the sampled solutions of these providers."""
    problems: int = 0
    """Problems for the judged solutions."""
    samples: int = 0
    """Solutions a problem and provider."""
    temperature: float = 1.0

    @property
    def config(self) -> Config:
        return Config(
            vocabulary=len(arithmetic.VOCABULARY),
            hidden=self.hidden,
            layers=self.layers,
            heads=self.hidden // self.head_size,
            kv_heads=self.hidden // self.head_size,
            head_size=self.head_size,
            intermediate=round(self.hidden * 8 / 3 / 32) * 32,
            max_positions=2 * arithmetic.LONGEST,
            tied=True,
        )


# ---------------------------------------------------------------------------------------- batches


def solutions(recipe: Recipe, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [B, T] of problems with their working, and which of them are to be learned."""
    found = itertools.islice(
        arithmetic.problems(recipe.seed + (step << 32), held_out=False), recipe.batch
    )
    efforts = itertools.cycle(arithmetic.EFFORTS if recipe.efforts else [None])
    random = np.random.default_rng([recipe.seed, step])
    tokens = np.full((recipe.batch, arithmetic.LONGEST), arithmetic.PAD, np.int32)
    learned = np.zeros(tokens.shape, bool)
    for row, (problem, effort) in enumerate(zip(found, efforts, strict=False)):
        prompt = arithmetic.encode(problem.prompt(effort))
        order = problem.drawn_order(random)
        working = [*arithmetic.encode(problem.working(effort, order)), arithmetic.END]
        end = len(prompt) + len(working)
        tokens[row, :end] = prompt + working
        learned[row, len(prompt) : end] = True
    # Columns that are padding in every row cost as much as others: a few widths, compiled once each
    width = -(-int(np.flatnonzero(learned.any(0)).max() + 1) // 16) * 16
    return tokens[:, :width], learned[:, :width]


def judged(recipe: Recipe, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sampled solutions to training problems.

    Returns:
        Ids [N, T]; which of them are of the solution [N, T]; and [N, T] whether it is right so far:
        as a right solution begins, or, at its last token, with the right answer.
    """
    rows, verify = [], grading.named("number")
    stream = arithmetic.problems(recipe.seed, held_out=False)
    for name in recipe.judges:
        lm = load(folder / name, dtype=jnp.float32)
        asked = settings.read(folder / name / "recipe.toml", Recipe).efforts
        efforts = itertools.cycle(arithmetic.EFFORTS if asked else [None])
        chosen = list(zip(itertools.islice(stream, recipe.problems), efforts, strict=False))
        said = lm.generate(
            [problem.prompt(effort) for problem, effort in chosen],
            recipe.samples,
            recipe.temperature,
            max_tokens=arithmetic.LONGEST,
            seed=recipe.seed,
            batch=128,
        )
        for (problem, effort), samples in zip(chosen, said, strict=True):
            prompt = arithmetic.encode(problem.prompt(effort))
            for sample in samples:
                good = problem.right_so_far(effort, sample.token_ids)
                good[-1] = verify(sample.text, str(problem.answer)).correct
                rows.append((prompt, sample.token_ids, good))
    longest = max(len(prompt) + len(ids) for prompt, ids, _ in rows)
    tokens = np.full((len(rows), longest), arithmetic.PAD, np.int32)
    judged, right = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, (prompt, ids, good) in enumerate(rows):
        solution = slice(len(prompt), len(prompt) + len(ids))
        tokens[row, : solution.start], tokens[row, solution] = prompt, ids
        judged[row, solution], right[row, solution] = True, good
    return tokens, judged, right


# ------------------------------------------------------------------------------------------- loss


def next_token_loss(network: Decoder, tokens, learned):
    hidden = network(tokens[:, :-1], jnp.arange(tokens.shape[1] - 1))
    losses = optax.softmax_cross_entropy_with_integer_labels(network.output(hidden), tokens[:, 1:])
    return (losses * learned[:, 1:]).sum() / learned.sum()


def judgement_loss(network: Decoder, tokens, judged, right):
    """Of each token's chance to be right, up to the first that is wrong."""
    hidden = network(tokens[:, :-1], jnp.arange(tokens.shape[1] - 1))
    chance = jnp.exp(log_chances(network.output(hidden), tokens[:, 1:])) * (1 - 1e-3)
    losses = -jnp.log(jnp.where(right[:, 1:], chance, 1 - chance) + 1e-6)
    counted = judged[:, 1:] & (right[:, :-1] | ~judged[:, :-1])
    return (losses * counted).sum() / counted.sum()


# --------------------------------------------------------------------------------------- training


def train(file: Path) -> Path:
    """Follows a recipe; returns the folder of the checkpoint, the recipe's own."""
    recipe, folder = settings.read(file, Recipe), file.parent
    config, network = _first(recipe, folder.parent)
    loss: Callable[..., Any] = judgement_loss if recipe.judges else next_token_loss
    collected = judged(recipe, folder.parent) if recipe.judges else None

    def batches(step: int) -> tuple[np.ndarray, ...]:
        if collected is None:
            return solutions(recipe, step)
        random = np.random.default_rng([recipe.seed, step])
        chosen = random.integers(0, len(collected[0]), recipe.batch)
        return tuple(array[chosen] for array in collected)

    graph, state = nnx.split(network)
    chosen = muon(learning_rate(recipe))
    update = updates(loss, graph, chosen)
    kept = folder / "unfinished.npz"
    training = (state, chosen.init(state))
    first, losses, training = _resume(kept, recipe, training)
    with _progress() as progress:
        task = progress.add_task(
            folder.name, total=recipe.steps, completed=first, loss=float("nan")
        )
        for step in range(first, recipe.steps):
            *training, value = update(*training, *batches(step))
            losses.append(float(value))
            progress.update(task, advance=1, loss=np.mean(losses[-20:]))
            if (step + 1) % 100 == 0 and step + 1 < recipe.steps:
                _keep(kept, recipe, losses, training)
    params.save(
        folder,
        config,
        training[0],
        special={"eos_token_id": arithmetic.END, "pad_token_id": arithmetic.PAD},
    )
    arithmetic.save_tokenizer(folder)
    with (folder / "log.csv").open("w", newline="") as log:
        writer = csv.writer(log)
        writer.writerow(["step", "loss"])
        every = max(1, recipe.steps // 50)
        for start in range(0, recipe.steps, every):
            mean = np.mean(losses[start : start + every])
            writer.writerow([min(start + every, recipe.steps), f"{mean:.5f}"])
    kept.unlink(missing_ok=True)
    return folder


def learning_rate(recipe: Recipe) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        0.0,
        recipe.learning_rate,
        max(1, recipe.steps // 10),
        recipe.steps,
        recipe.learning_rate / 10,
    )


def muon(rate: optax.Schedule) -> optax.GradientTransformation:
    """Ends 600 steps at a tenth of the loss of AdamW (`benchmarks/training.py`)."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            rate,
            weight_decay=0.01,
            adam_b2=0.98,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        ),
    )


def updates(loss: Callable, graph, optimiser: optax.GradientTransformation) -> Callable:
    """(state, moments, *batch) → the same after a step, and the loss before it; compiled."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(state, moments, *batch):
        # float32 stays float32: some devices would multiply in fewer bits
        with jax.default_matmul_precision("highest"):
            value, gradient = jax.value_and_grad(
                lambda state: loss(nnx.merge(graph, state), *batch)
            )(state)
            change, moments = optimiser.update(gradient, moments, state)
        return optax.apply_updates(state, change), moments, value

    return update


def _matrices(state):
    """Which parameters Muon takes: the layers' matrices. The others are left to Adam."""

    def take(path, leaf):
        inside = path[0].key == "layers" and leaf.ndim == 2
        return optax.contrib.MuonDimensionNumbers() if inside else None

    return jax.tree_util.tree_map_with_path(take, state)


def _first(recipe: Recipe, folder: Path) -> tuple[Config, Decoder]:
    """The network before any step; a reward model has a label a token in place of an output."""
    if recipe.trunk is None:
        trunk: dict[Any, Any] = {}
        config = recipe.config
    else:
        provider: LM = load(folder / recipe.trunk, dtype=jnp.float32)
        trunk, config = dict(nnx.to_flat_state(provider.parameters)), provider.config
    if recipe.judges:
        # it begins by judging as the provider would continue
        embedding = trunk["embed", "embedding"].get_value()
        trunk["head", "kernel"] = nnx.Param(embedding.T)
        config = dataclasses.replace(config, labels=config.vocabulary, tied=False)
    network = Decoder(config, rngs=nnx.Rngs(recipe.seed))
    graph, state = nnx.split(network)
    merged = [(path, trunk.get(path, leaf)) for path, leaf in nnx.to_flat_state(state)]
    return config, nnx.merge(graph, nnx.from_flat_state(merged))


def _keep(file: Path, recipe: Recipe, losses: list[float], training) -> None:
    arrays = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(training))}
    temporary = file.with_suffix(".partial.npz")
    np.savez(temporary, recipe=repr(recipe), losses=losses, **arrays)
    os.replace(temporary, file)


def _resume(file: Path, recipe: Recipe, training):
    if not file.exists():
        return 0, [], training
    with np.load(file) as stored:
        if str(stored["recipe"]) != repr(recipe):
            raise InputError(
                f"{file} was begun with another recipe; remove it, or restore the recipe"
            )
        leaves = [jnp.asarray(stored[str(n)]) for n in range(len(jax.tree.leaves(training)))]
        losses = stored["losses"].tolist()
    return len(losses), losses, jax.tree.unflatten(jax.tree.structure(training), leaves)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipes: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, metavar="RECIPE…")],
) -> None:
    """Train a checkpoint from each recipe, in order."""
    for recipe in recipes:
        train(recipe)


if __name__ == "__main__":
    sys.exit(run(app, "models.train"))
