"""Language models in Flax that produce quality-versus-compute data."""

from models.generation import Generation, Options, Sample, Thinking
from models.language_model import LM, load
from models.modeling import Config, Decoder
from models.params import CheckpointError, save

__all__ = [
    "LM",
    "CheckpointError",
    "Config",
    "Decoder",
    "Generation",
    "Options",
    "Sample",
    "Thinking",
    "load",
    "save",
]
