"""The decoder is Hugging Face's network: same logits, rewards and greedy continuations."""

import json
import os
import shutil
import subprocess
import sys

import gguf
import hf_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mechlab.core.errors import InputError
from models import CheckpointError, checkpoints, load, params, save

LANGUAGE = [name for name in reference.CONFIGS if "reward" not in name]


@pytest.fixture(scope="session")
def golden():
    with np.load(reference.GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def smollm2():
    return load(f"gguf:{reference.pretrained_file()}", dtype=jnp.float32)


@pytest.fixture
def checkpoint(tmp_path, request):
    reference.write(tmp_path, reference.CONFIGS[request.param])
    return request.param, tmp_path


def expected(golden, name, folder, key):
    if reference.TORCH:
        return reference.of_torch(folder)[key]
    return golden[f"{name}/{key}"]


# by default one of each mathematics: grouped heads, scaled rope, windows, experts
DEFAULT = ("llama3.1", "no_groups", "qwen2", "qwen3", "gemma3", "mistral")


@pytest.mark.parametrize(
    "checkpoint",
    [pytest.param(x, marks=() if x in DEFAULT else pytest.mark.slow) for x in LANGUAGE],
    indirect=True,
)
def test_logits_and_greedy_continuations_are_hugging_faces(checkpoint, golden):
    name, folder = checkpoint
    lm = load(folder, dtype=jnp.float32)
    ids = reference.token_ids(reference.CONFIGS[name])
    logits = expected(golden, name, folder, "logits")
    assert np.abs(logits).max() > 1  # weights that say something
    np.testing.assert_allclose(lm.logits(ids), logits, atol=1e-4)
    said = lm.generate([ids[0, :20]], temperature=0, max_tokens=reference.GREEDY)[0][0]
    assert list(said.token_ids) == expected(golden, name, folder, "greedy").tolist()


@pytest.mark.parametrize("checkpoint", ["llama_reward", "qwen2_reward"], indirect=True)
def test_rewards_are_hugging_faces(checkpoint, golden):
    name, folder = checkpoint
    lm = load(folder, dtype=jnp.float32)
    ids = reference.token_ids(reference.CONFIGS[name])
    rewards = expected(golden, name, folder, "rewards")
    np.testing.assert_allclose(lm.rewards(list(ids)), rewards, atol=1e-4)
    # a shorter sequence beside it, and another order, change nothing
    assert lm.rewards([ids[0].tolist() + ids[1].tolist() + [1] * 50]).shape == (1,)  # 230 of 256
    mixed = lm.rewards([ids[0, :7], ids[1], ids[0]], tokens=256)
    np.testing.assert_allclose(mixed[1:], rewards[::-1], atol=1e-4)
    np.testing.assert_allclose(mixed[0], lm.rewards([ids[0, :7]])[0], atol=1e-4)


def test_golden_values_are_of_every_config(golden):
    lab = {folder.name for folder in reference.LAB.iterdir()}
    assert {key.split("/")[0] for key in golden} == {*reference.CONFIGS, *lab, "pretrained"}


@pytest.mark.full
@pytest.mark.parametrize("number", range(len(reference.TEXTS)))
def test_a_pretrained_model_is_hugging_faces(smollm2, golden, number):
    ids = golden[f"pretrained/{number}/ids"].tolist()
    text = reference.TEXTS[number]
    # in a plain text the names of control tokens are text here, and tokens there
    assert (smollm2.encode(text) == ids) == ("<|im_start|>" not in text)
    logits = np.asarray(smollm2.logits([ids])[0])[:, :: reference.SHOWN]
    np.testing.assert_allclose(logits, golden[f"pretrained/{number}/logits"], atol=1e-3)


@pytest.mark.full
def test_a_pretrained_model_continues_as_hugging_faces(smollm2, golden):
    prompts = [golden[f"pretrained/{number}/ids"] for number in range(len(reference.TEXTS))]
    said = smollm2.generate(prompts, temperature=0, max_tokens=reference.GREEDY, stop=())
    for number, samples in enumerate(said):
        assert list(samples[0].token_ids) == golden[f"pretrained/{number}/greedy"].tolist()


@pytest.mark.skipif(
    not reference.TORCH, reason="torch is not installed; golden values are compared instead"
)
def test_a_pretrained_model_is_hugging_faces_live(smollm2):
    found = reference.of_torch_pretrained(reference.pretrained_file())
    for number in range(len(reference.TEXTS)):
        ids = found[f"{number}/ids"]
        logits = np.asarray(smollm2.logits([ids])[0])[:, :: reference.SHOWN]
        np.testing.assert_allclose(logits, found[f"{number}/logits"], atol=1e-3)


def test_a_gguf_files_tokenizer_has_its_chat_template(smollm2, golden):
    assert smollm2.encode(list(reference.CHAT)) == golden["pretrained/chat"].tolist()
    for text in reference.TEXTS[:4]:
        assert smollm2.decode(smollm2.encode(text)) == text


# ------------------------------------------------------------------------------------ checkpoints


def test_an_index_of_many_files_is_the_same_checkpoint(tmp_path):
    fields = reference.CONFIGS["qwen2.5"]
    reference.write(tmp_path / "one", fields)
    reference.write(tmp_path / "many", fields, shards=3)
    ids = reference.token_ids(fields)
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    np.testing.assert_array_equal(one.logits(ids), many.logits(ids))
    (tmp_path / "many" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors, which is not"):
        load(tmp_path / "many")


def write_gguf(file, fields, tensors, factors=None):
    """A GGUF file as llama.cpp's converter writes it."""
    kind = fields["model_type"]
    writer = gguf.GGUFWriter(file, kind)
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_embedding_length(fields["hidden_size"])
    writer.add_feed_forward_length(fields["intermediate_size"])
    writer.add_head_count(fields["num_attention_heads"])
    writer.add_head_count_kv(fields["num_key_value_heads"])
    writer.add_context_length(fields["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_rope_freq_base(fields.get("rope_theta", 10_000.0))
    if "head_dim" in fields:
        writer.add_key_length(fields["head_dim"])
    letters = ["!", '"', '!"', *(chr(35 + index) for index in range(fields["vocab_size"] - 3))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_types([1] * len(letters))
    writer.add_token_merges(['! "'])
    for tensor in params.tensors(checkpoints.config_of(file.parent)):
        array = tensors[tensor.hf]
        if kind == "llama" and tensor.gguf.endswith(("attn_q.weight", "attn_k.weight")):
            heads = fields[
                "num_attention_heads" if "attn_q" in tensor.gguf else "num_key_value_heads"
            ]
            array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(tensor.gguf, np.ascontiguousarray(array))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ["llama3.1", "llama3.2", "qwen2", "qwen3_untied"])
def test_a_gguf_file_is_the_checkpoint_it_was_made_from(tmp_path, name):
    fields = reference.CONFIGS[name]
    tensors = reference.write(tmp_path, fields)
    factors = checkpoints.config_of(tmp_path).rope_factors
    write_gguf(tmp_path / "model.gguf", fields, tensors, factors)
    ids = reference.token_ids(fields)
    ours, theirs = load(f"gguf:{tmp_path / 'model.gguf'}"), load(tmp_path)
    assert ours.config.tied == theirs.config.tied
    np.testing.assert_allclose(ours.logits(ids), theirs.logits(ids), atol=1e-5)
    assert ours.encode('A!"') == [33, 2]


@pytest.mark.parametrize("name", ["qwen2", "llama3", "qwen3", "llama_reward"])
def test_what_is_saved_is_loaded_again(tmp_path, name):
    fields = reference.CONFIGS[name]
    reference.write(tmp_path / "first", fields)
    first = load(tmp_path / "first")
    save(tmp_path / "again", first.config, first.parameters, dtype=jnp.float32)
    again = load(tmp_path / "again")
    assert again.config == first.config
    jax.tree.map(np.testing.assert_array_equal, again.parameters, first.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3_moe", "gemma3", "llama_reward"])
def test_int8_is_the_network_of_rounded_weights(tmp_path, name):
    tensors = reference.write(tmp_path / "whole", reference.CONFIGS[name])
    rounded = dict(tensors)
    for key, matrix in tensors.items():
        kept = "mlp.gate.weight" in key or "score" in key  # routers, and heads of rewards
        if matrix.ndim == 2 and not kept:
            rounded[key] = np.stack(
                [np.rint(row * 127 / np.abs(row).max()) * np.abs(row).max() / 127 for row in matrix]
            ).astype(np.float32)
    shutil.copytree(tmp_path / "whole", tmp_path / "rounded")
    save_file(rounded, tmp_path / "rounded" / "model.safetensors")
    int8, same = load(tmp_path / "whole", weights="int8"), load(tmp_path / "rounded")
    ids = reference.token_ids(reference.CONFIGS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(int8.parameters)} == {
        jnp.dtype("int8"),
        jnp.dtype("float32"),
    }
    assert int8.dtype == jnp.float32
    if int8.config.labels:
        np.testing.assert_allclose(int8.rewards(ids), same.rewards(ids), atol=1e-4)
    else:
        np.testing.assert_allclose(int8.logits(ids), same.logits(ids), atol=1e-4)
        said, too = (lm.generate([ids[0, :20]], temperature=0, max_tokens=8) for lm in (int8, same))
        assert said[0][0].token_ids == too[0][0].token_ids
    with pytest.raises(CheckpointError, match="int8 cannot be saved"):
        save(tmp_path / "again", int8.config, int8.parameters)
    with pytest.raises(InputError, match="weights: 'int8', or left out"):
        load(tmp_path / "whole", weights="int4")


def test_a_mismatch_lists_missing_extra_and_misshaped_tensors(tmp_path):
    tensors = reference.write(tmp_path, reference.CONFIGS["qwen2"])
    del tensors["model.layers.1.self_attn.q_proj.bias"]
    tensors["model.norm.weight"] = np.ones(5, np.float32)
    tensors["model.layers.9.mlp.up_proj.weight"] = np.ones((2, 2), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    message = str(error.value)
    assert "1 missing: model.layers.1.self_attn.q_proj.bias" in message
    assert "1 extra: model.layers.9.mlp.up_proj.weight" in message
    assert "model.norm.weight: [5] in the checkpoint, [32] by its config" in message
    assert "\n" not in message


def test_truncated_files_are_named(tmp_path):
    reference.write(tmp_path, reference.CONFIGS["llama3"])
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors"):
        load(tmp_path)
    tensors = reference.write(tmp_path, reference.CONFIGS["llama3"])
    short = tmp_path / "model.gguf"
    write_gguf(short, reference.CONFIGS["llama3"], tensors)
    short.write_bytes(short.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.gguf is not a whole GGUF"):
        load(f"gguf:{short}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn has no 'factor'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "'longrope'"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "softcapping"),
        ({"model_type": "qwen3", "sliding_window": 8, "layer_types": ["x"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_a_network_that_the_decoder_is_not_is_refused(tmp_path, change, says):
    reference.write(tmp_path, reference.CONFIGS["llama3"])
    (tmp_path / "config.json").write_text(json.dumps(reference.CONFIGS["llama3"] | change))
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path)


def test_a_pickled_checkpoint_is_not_read(tmp_path):
    reference.write(tmp_path, reference.CONFIGS["llama3"])
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        load(tmp_path)
    for spec in ("gguf:nowhere.gguf", "nowhere", "package:nowhere_at_all", "package:nowhere.sub"):
        with pytest.raises(CheckpointError, match="nowhere"):
            load(spec)


HUB = """
import sys
import models
try:
    print(models.load(sys.argv[1]).config.hidden)
except models.CheckpointError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_cached_model_of_the_hub_is_loaded_offline(tmp_path):
    cached = tmp_path / "models--org--tiny"
    reference.write(cached / "snapshots" / "abc", reference.CONFIGS["qwen2"])
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")

    def loaded(spec):
        environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", HUB, spec],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert loaded("hf:org/tiny") == "32"
    assert "not the name" in loaded("hf:a/b/c")
    missing = loaded("hf:org/other")
    assert missing.startswith("hf:org/other is not whole in the cache") and "\n" not in missing


def test_a_model_that_is_not_whole_in_the_cache_is_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    reference.write(tmp_path, reference.CONFIGS["qwen2"])
    held = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    fetched = []

    def snapshot_download(name, *, local_files_only=False, **_):
        if not local_files_only:
            fetched.append(name)
            (tmp_path / "model.safetensors").write_bytes(held)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for _ in range(2):
        assert load("hf:org/tiny").config.hidden == 32
    assert fetched == ["org/tiny"]


def test_parameters_count(tmp_path):
    for name, fields in reference.CONFIGS.items():
        reference.write(tmp_path / name, fields)
        lm = load(tmp_path / name)
        assert lm.config.parameters == sum(leaf.size for leaf in jax.tree.leaves(lm.parameters))
