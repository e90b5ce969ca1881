"""Training follows its recipe: it learns, it goes on where it was killed, it says what is wrong."""

import csv
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from mechlab.core.errors import InputError
from models import arithmetic, load, settings, train

RECIPE = """
seed = 5
hidden = 32
layers = 1
head_size = 16
steps = 240
batch = 8
learning_rate = 3e-3
efforts = true
"""


def write(folder, text=RECIPE):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train.train(write(tmp_path_factory.mktemp("lab") / "whole"))


@pytest.mark.slow
def test_a_checkpoint_is_the_hugging_face_layout_and_speaks_the_alphabet(whole):
    lm = load(whole, dtype=jnp.float32)
    assert lm.stop == (arithmetic.END,)
    problem = arithmetic.Problem((37, 45, -12))
    assert lm.encode(problem.prompt("long")) == arithmetic.encode("l37+45-12=")
    assert lm.decode(arithmetic.encode("82-12=70")) == "82-12=70"
    sample = lm.generate([problem.prompt()], max_tokens=20)[0][0]
    assert set(sample.text) <= set("0123456789+-=>sml")


@pytest.mark.slow
def test_the_loss_falls_and_is_logged(whole):
    rows = list(csv.DictReader((whole / "log.csv").read_text().splitlines()))
    assert int(rows[-1]["step"]) == 240
    losses = [float(row["loss"]) for row in rows]
    # below log 10, what guessing digits would cost
    assert losses[0] > np.log(10) > np.mean(losses[-5:]) + 0.05


@pytest.mark.full
def test_a_killed_training_goes_on_to_the_same_numbers(whole, tmp_path):
    file = write(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "models.train", file],
        stdout=-3,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
    )
    unfinished = file.parent / "unfinished.npz"
    while not unfinished.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (file.parent / "model.safetensors").exists()
    with pytest.raises(InputError, match="another recipe"):
        train.train(write(file.parent, RECIPE.replace("seed = 5", "seed = 6")))
    write(file.parent)
    train.train(file)
    again = (file.parent / "model.safetensors").read_bytes()
    assert again == (whole / "model.safetensors").read_bytes()
    assert not unfinished.exists()


@pytest.mark.slow
def test_a_reward_model_learns_to_judge_a_providers_solutions(whole):
    text = """
seed = 1
steps = 120
batch = 32
learning_rate = 3e-3
trunk = "whole"
judges = ["whole"]
problems = 12
samples = 8
"""
    folder = train.train(write(whole.parent / "judge", text))
    judge = load(folder, dtype=jnp.float32)
    assert judge.config.labels == judge.config.vocabulary
    recipe = settings.read(folder / "recipe.toml", train.Recipe)
    tokens, judged, right = train.judged(recipe, whole.parent)
    assert len(tokens) == 12 * 8 and not (right & ~judged).any()
    last = tokens.shape[1] - 1 - judged[:, ::-1].argmax(1)
    rewards = judge.rewards([row[: end + 1].tolist() for row, end in zip(tokens, last)])
    assert rewards.shape == (96,)
    right = right[np.arange(96), last]
    if right.any():
        assert rewards[right].mean() > rewards[~right].mean()
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hidden", "widht", "widht is not known"),
        ("seed = 5", "", "seed is missing"),
        ("steps = 240", "steps = 2.5", "steps must be int"),
        ("efforts = true", "judges = 3", "judges must be tuple"),
    ],
)
def test_a_faulty_recipe_is_named(tmp_path, old, new, says):
    with pytest.raises(InputError, match=rf"recipe\.toml: {says}"):
        train.train(write(tmp_path, RECIPE.replace(old, new)))
