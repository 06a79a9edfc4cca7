"""The encoder of a workdir: of pre-training, of a classifier, untrained."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest
from encoders import make_workdir

from lvit_jax.bin import train
from lvit_jax.build.backbone import labelled_splits, load_backbone, make_features
from lvit_jax.build.trained import load_trained
from lvit_jax.errors import InputError
from lvit_jax.models.features import layers
from lvit_jax.training.record import read_record, write_record

TINY = ["--config.model.width=32", "--config.model.depth=2", "--config.model.heads=2", "--config.train.steps=2"]
TINY += ["--config.optim.warmup_epochs=0.0", "--config.eval.batch_size=128"]
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8, 1)), jnp.float32)


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "mae"
    assert train.main(["--config=demo/mae", f"--workdir={workdir}", *TINY]) == 0
    return workdir


@pytest.fixture(scope="module")
def classifier(mae):
    workdir = mae.parent / "ft"
    argv = ["--config=demo/finetune", f"--workdir={workdir}", f"--config.init.encoder={mae}", *TINY]
    assert train.main([*argv, "--config.objective.pool=cls"]) == 0
    return workdir


def test_the_layers_are_what_each_block_saw_and_the_normed_end(mae):
    backbone = load_backbone(mae)
    features = make_features(backbone)(backbone.params, IMAGES)
    found = layers(features)
    assert len(found) == backbone.layers == 3
    np.testing.assert_array_equal(found[0], features.blocks[0].normed)
    end = np.asarray(features.blocks[-1].x, np.float64)  # the final norm, by hand
    normed = (end - end.mean(-1, keepdims=True)) / np.sqrt(end.var(-1, keepdims=True) + 1e-6)
    norm = backbone.params["encoder"]["norm"]
    np.testing.assert_allclose(found[-1], normed * norm["scale"] + norm["bias"], atol=1e-5)


def test_a_classifiers_final_tokens_are_normed_by_its_head(classifier):
    """So that its CLS token is what its last Linear reads."""
    backbone, trained = load_backbone(classifier), load_trained(classifier)
    tokens = make_features(backbone)(backbone.params, IMAGES).tokens
    fc = trained.params["head"]["fc"]
    logits = trained.objective.predict(trained.params, trained.state, {"image": IMAGES})["logits"]
    np.testing.assert_allclose(tokens[:, 0] @ fc["kernel"] + fc["bias"], logits, atol=1e-5)


def test_untrained_is_the_same_architecture_with_other_weights(mae):
    trained, fresh = load_backbone(mae), load_backbone(f"untrained:{mae}")
    shapes = [
        {name: x.shape for name, x in b.params["encoder"]["block_0"]["attn"]["qkv"].items()} for b in (trained, fresh)
    ]
    assert shapes[0] == shapes[1]
    ours, theirs = (make_features(b)(b.params, IMAGES).tokens for b in (trained, fresh))
    assert np.abs(ours - theirs).max() > 0.1


@pytest.mark.parametrize(("fields", "inner"), [({"name": "d2", "decode_from": 3}, 3), ({"name": "d2"}, 8)])
def test_the_norm_of_a_d2_is_said_to_be_an_inner_blocks(tmp_path, caplog, fields, inner):
    """k-NN and CKA of its last layer read through a norm trained on another one; imports do not say on which."""
    place = make_workdir(tmp_path / "d2", "vit")
    record = read_record(place)
    record["config"]["objective"] = fields
    write_record(place, record)
    with caplog.at_level(logging.WARNING, "lvit_jax"):
        load_backbone(f"untrained:{place}")
        assert not caplog.messages
        load_backbone(place)
    assert caplog.messages[0].startswith(f"{place}: the final norm of a D²-MAE belongs to its inner block {inner};")


def test_splits_are_the_runs_own_unless_another_source_is_named(mae):
    train_source, val = labelled_splits(load_backbone(mae), None)
    assert (train_source.size, val.size) == (1437, 360) and train_source.classes == val.classes
    again = labelled_splits(load_backbone(mae), "digits", train_split="train[:50%]")
    assert again[0].size == 718 and again[1].fingerprint == val.fingerprint
    with pytest.raises(InputError, match="no folder"):
        labelled_splits(load_backbone(mae), "folder:/nowhere")
