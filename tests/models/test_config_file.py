"""Every key of a `config.json` is used as transformers uses it, harmless, or refused."""

import json
import shutil

import hf_reference as reference
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models import CheckpointError, config_file, load
from models.config_file import config_of

LLAMA = reference.CONFIGS["llama3"]


def config(folder, fields):
    (folder / "config.json").write_text(json.dumps(fields))
    return config_of(folder)


@pytest.fixture(scope="module")
def networks():
    return json.loads(reference.NETWORKS_FILE.read_text())


@pytest.mark.parametrize("name", reference.NETWORKS)
def test_positions_and_windows_are_hugging_faces(tmp_path, networks, name):
    found, theirs = config(tmp_path, reference.NETWORKS[name]), networks[name]
    np.testing.assert_allclose(found.frequencies, theirs["frequencies"], rtol=2e-6)
    np.testing.assert_allclose(found.local_frequencies, theirs["local_frequencies"], rtol=2e-6)
    assert found.rope_scale == pytest.approx(theirs["scale"], rel=1e-6)
    assert [found.window(layer) for layer in range(found.layers)] == theirs["windows"]


def test_stored_networks_are_all(networks):
    assert set(networks) == set(reference.NETWORKS)


def test_yarn_reads_as_far_as_it_stretches(tmp_path):
    fields = LLAMA | {"max_position_embeddings": 32}
    yarn = {"rope_type": "yarn", "factor": 4.0}
    for more, most in (
        ({}, 32),
        ({"rope_scaling": yarn}, 128),
        ({"rope_scaling": yarn | {"original_max_position_embeddings": 32}}, 128),
        ({"rope_scaling": yarn | {"original_max_position_embeddings": 8}}, 32),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 32),
    ):
        assert config(tmp_path, fields | more).max_positions == most


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {"max_positions": 2048, "kv_heads": 32, "tied": False}),
        ("mistral", {"max_positions": 131_072, "kv_heads": 8, "windows": (4096,) * 3}),
        ("qwen2", {"max_positions": 32_768, "kv_heads": 32, "windows": None}),
        ("qwen3", {"head_size": 128, "windows": None, "norm_epsilon": 1e-6}),
        ("qwen3_moe", {"kv_heads": 4, "experts": 128, "experts_per_token": 8}),
        ("gemma3_text", {"head_size": 256, "kv_heads": 4, "tied": True, "rope_theta": 1e6}),
    ],
)
def test_defaults_are_transformers(tmp_path, kind, fields):
    from transformers import AutoConfig

    few = {"model_type": kind, "hidden_size": 64, "intermediate_size": 8, "vocab_size": 9}
    few |= {"num_hidden_layers": 3, "num_attention_heads": 32, "moe_intermediate_size": 8}
    if kind != "qwen3_moe":
        del few["moe_intermediate_size"]
    found = config(tmp_path, few)
    assert {name: getattr(found, name) for name in fields} == fields
    theirs = AutoConfig.for_model(**few)
    assert found.max_positions == theirs.max_position_embeddings
    assert found.kv_heads == theirs.num_key_value_heads
    assert found.tied == theirs.tie_word_embeddings
    assert found.norm_epsilon == theirs.rms_norm_eps


def test_a_config_as_transformers_writes_it_is_read(tmp_path):
    from transformers import AutoConfig

    for name, fields in reference.CONFIGS.items():
        written = AutoConfig.for_model(**fields).to_dict()
        written |= {"architectures": fields["architectures"], "_name_or_path": "org/name"}
        assert config(tmp_path, written) == config(tmp_path, fields), name


def test_an_output_matrix_that_differs_is_used(tmp_path):
    """transformers 5 unties what `tie_word_embeddings` ties where both matrices differ."""
    tied = reference.CONFIGS["smollm2"]
    tensors = reference.write(tmp_path / "tied", tied)
    embedding = tensors["model.embed_tokens.weight"]
    for name, head in (("same", embedding), ("other", embedding[::-1].copy())):
        shutil.copytree(tmp_path / "tied", tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        save_file(load_file(file) | {"lm_head.weight": head}, file, metadata={"format": "pt"})
    one, same, other = (load(tmp_path / name) for name in ("tied", "same", "other"))
    assert (one.config, same.config) == (one.config, one.config) and one.config.tied
    assert not other.config.tied
    ids = reference.token_ids(tied)[:, :8]
    np.testing.assert_array_equal(same.logits(ids), one.logits(ids))
    # rows of the output matrix the other way round: logits the other way round
    np.testing.assert_allclose(other.logits(ids), one.logits(ids)[..., ::-1], atol=1e-5)


YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = reference.CONFIGS["llama3.1"]["rope_scaling"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention_multiplier": 0.5}, "attention_multiplier: not known"),
        ({"embedding_multiplier": 12.0, "logits_scaling": 8}, "embedding_multiplier, logits_scal"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: not known"),
        ({"num_local_experts": 8}, "num_local_experts: not known"),
        ({"use_sliding_window": True}, "use_sliding_window: not known"),
        ({"sliding_window": 8}, "Llama has no windows"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "mrope_section: not known"),
        ({"rope_parameters": {"full_attention": {}}}, "full_attention: not known"),
        ({"rope_scaling": YARN | {"low_freq_factor": 1.0}}, "low_freq_factor: not known"),
        ({"rope_scaling": YARN | {"rope_theta": 1.0}}, "must not be 1 with yarn"),
        ({"rope_scaling": YARN | {"beta_fast": "32"}}, 'beta_fast = "32"; it must be a number'),
        ({"rope_scaling": YARN | {"factor": 0}}, "factor = 0; it must be a number above 0"),
        ({"rope_scaling": YARN | {"truncate": 1}}, "truncate = 1; it must be true or false"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "must be above low_freq_factor"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope scaling '\[\"yarn\"\]' is not"),
        ({"rope_scaling": [4.0]}, r"rope_scaling must be an object, not \[4.0\]"),
        ({"rope_theta": float("nan")}, "rope_theta = NaN; it must be a number above 0"),
        ({"rope_theta": -1.0}, "rope_theta = -1.0"),
        ({"hidden_size": "32"}, 'hidden_size = "32"; it must be a whole number'),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers = 2.5"),
        ({"num_attention_heads": True}, "num_attention_heads = true"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3; it must divide the 4 heads"),
        ({"head_dim": 7}, "head_dim = 7; rotary positions need an even one"),
        ({"rms_norm_eps": [1e-6]}, "rms_norm_eps = "),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = "),
        ({"architectures": ["LlamaForTokenClassification"]}, "only ForCausalLM and"),
        ({"architectures": "LlamaForCausalLM"}, "architectures = .* a list of one name"),
        ({"layer_types": 3}, "layer_types = 3; it must name"),
        ({"layer_types": ["sliding_attention"] * 3}, "it names windows, and the other keys"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 3}, "it names windows"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e4}},
            "rope_parameters: rope_theta: not known",
        ),
        ({"model_type": "gemma3_text", "rope_scaling": YARN}, "yarn is not supported for gemma3"),
        ({"model_type": "gemma3_text", "sliding_window": None}, "it names windows"),
    ],
)
def test_a_key_that_the_decoder_has_not_is_refused_in_a_line(tmp_path, change, says):
    fields = {name: value for name, value in LLAMA.items() if name != "architectures"}
    with pytest.raises(CheckpointError, match=says) as error:
        config(tmp_path, fields | change)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer_types": ["full_attention"] * 3, "use_sliding_window": True}, "all layers"),
        ({"num_local_experts": 8}, "num_experts = 6; num_local_experts is 8"),
        ({"num_experts_per_tok": 7}, "there are 6 experts"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not supported"),
        ({"mlp_only_layers": [1]}, r"mlp_only_layers = \[1\] is not supported"),
    ],
)
def test_a_mixture_that_the_decoder_has_not_is_refused(tmp_path, change, says):
    with pytest.raises(CheckpointError, match=says):
        config(tmp_path, reference.CONFIGS["qwen3_moe"] | change)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "{", "[" * 10_000])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_json_that_holds_no_object_is_named(tmp_path, content, name):
    from models import arithmetic

    reference.write(tmp_path, reference.CONFIGS["smollm2"])
    arithmetic.save_tokenizer(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} (is not JSON|holds)") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}, []])
def test_an_index_without_its_map_is_named(tmp_path, index):
    reference.write(tmp_path, LLAMA, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json (has no weight_map|holds \[\])"):
        load(tmp_path)


def test_numbers_of_other_types_are_refused(tmp_path):
    tensors = reference.write(tmp_path, LLAMA)
    name = "model.norm.weight"
    file = tmp_path / "model.safetensors"
    from safetensors.flax import save_file as save_flax

    for dtype, said in ((jnp.float8_e4m3fn, "F8_E4M3"), (jnp.int8, "I8")):
        narrow = {key: jnp.asarray(value) for key, value in tensors.items()}
        save_flax(narrow | {name: narrow[name].astype(dtype)}, file)
        with pytest.raises(CheckpointError, match=f"{name} is of {said}; use a checkpoint of"):
            load(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    tensors = reference.write(tmp_path, LLAMA)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][-1, -1] = value
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite numbers"):
        load(tmp_path)


def test_a_type_that_the_device_has_not_is_refused(tmp_path):
    reference.write(tmp_path, LLAMA)
    for dtype in (jnp.float16, "float64", "int8", "half a float"):
        with pytest.raises(ValueError, match=r"dtype: .*; use float32 or bfloat16"):
            load(tmp_path, dtype=dtype)
    for spec in ("package:..", "package:.", "package:", "package:a..b", "package:sys"):
        with pytest.raises(CheckpointError, match="is not installed"):
            load(spec)


def test_every_listed_key_is_of_one_sort():
    used = {
        *config_file._USED,
        *(name for names in config_file._USED_BY.values() for name in names),
    }
    assert not used & config_file._HARMLESS
    assert not used & config_file._ONLY.keys()
    assert not config_file._HARMLESS & config_file._ONLY.keys()
