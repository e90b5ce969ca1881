"""Language models in Flax that produce quality-versus-compute data."""

from models.config_file import CheckpointError
from models.decoding import Options, Thinking
from models.generation import Generation, Sample
from models.language_model import LM, load
from models.modeling import Config, Decoder
from models.params import save

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
