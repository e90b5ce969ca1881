import dataclasses

import pytest
from flax import nnx

from models import arithmetic, save
from models.modeling import Config, Decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Networks with random weights that speak the arithmetic's alphabet: a speaker, and a judge."""
    folder = tmp_path_factory.mktemp("model")
    config = Config(
        vocabulary=len(arithmetic.VOCABULARY),
        hidden=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_size=16,
        intermediate=48,
        max_positions=128,
    )
    for name, labels in (("speaker", 0), ("judge", 1)):
        its = dataclasses.replace(config, labels=labels, tied=not labels)
        state = nnx.split(Decoder(its, rngs=nnx.Rngs(0)))[1]
        save(folder / name, its, state, special={"eos_token_id": arithmetic.END})
        arithmetic.save_tokenizer(folder / name)
    return folder
