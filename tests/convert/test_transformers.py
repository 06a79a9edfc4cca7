"""transformers' ViTMAE and ours on the same weights: loss, reconstruction, gradients, and back again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from make import imported, mae_model
from safetensors.numpy import load_file, save_file

from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.convert.compare import encoder_of
from lvit_jax.convert.params import to_torch
from lvit_jax.convert.record import arch_of
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.objectives.mae import reconstruction_loss
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record
from lvit_jax.tree import flatten


def batch(model, examples=3):
    """Pixels [B,C,H,W] with unequal patches, and noise [B,N]."""
    size, patch = model.config.image_size, model.config.patch_size
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randn(examples, 3, size, size, generator=rng) * torch.linspace(0.2, 2, size)
    return pixels, torch.rand(examples, (size // patch) ** 2, generator=rng)


def ours(folder, pixels, noise):
    """(loss, reconstruction, gradients) of an imported MAE, and its arch."""
    record, params = read_record(folder), load_params(folder)
    arch = arch_of(record, params, decoder=True)
    objective = record["config"]["objective"]
    model = masked_autoencoder(encoder_of(arch), objective["decoder"], objective["mask_ratio"])
    images, noise = jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()), jnp.asarray(noise.numpy())

    def loss(params):
        out = model.apply({"params": params}, images, noise)
        return reconstruction_loss(model, out, images, objective["norm_pix"]), out.prediction

    with jax.default_matmul_precision("highest"):
        (value, prediction), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return float(value), np.asarray(prediction), gradients, arch


def train(model, steps=8, lr=3e-3):
    """A few steps of AdamW, so that no tensor is at its initial value."""
    pixels, noise = batch(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(pixels, noise=noise).loss.backward()
        optimizer.step()
    return model


def agree(model, folder):
    """Loss to 1e-4 relative, reconstruction to 1e-4, every gradient to 1e-4 of its largest entry."""
    pixels, noise = batch(model)
    model.zero_grad()
    out = model(pixels, noise=noise)
    out.loss.backward()
    loss, prediction, gradients, arch = ours(folder, pixels, noise)
    assert loss == pytest.approx(out.loss.item(), rel=1e-4)
    np.testing.assert_allclose(prediction, out.logits.detach().numpy(), atol=1e-4)
    theirs = {name: p.grad.numpy() for name, p in saved_names(model).items() if p.grad is not None}
    mine = to_torch(jax.device_get(gradients), arch, "hf")
    assert len(theirs) > 40
    for name, gradient in theirs.items():
        scale = np.abs(gradient).max()
        if name.endswith("key.bias"):  # exactly zero in theory: softmax does not see it
            scale = np.abs(theirs[name.replace("key", "query")]).max()
        assert np.abs(mine[name] - gradient).max() <= 1e-4 * scale, name


def saved_names(model):
    """Parameters of a transformers model under the names of version 4 files."""
    from lvit_jax.convert.names import respell

    return {respell(name): parameter for name, parameter in model.named_parameters()}


def there_and_back(model, tmp_path):
    """Import, compare, export, load with transformers, compare again."""
    model.save_pretrained(tmp_path / "theirs")
    folder = imported(tmp_path / "theirs", tmp_path / "ours")
    agree(model, folder)
    assert export_torch([f"--workdir={folder}", "--to=hf", f"--out={tmp_path / 'back'}"]) == 0
    back = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "back").eval()
    pixels, noise = batch(model)
    with torch.no_grad():
        assert back(pixels, noise=noise).loss.item() == pytest.approx(model(pixels, noise=noise).loss.item(), rel=1e-6)
    assert back.config.to_dict().keys() >= {"mask_ratio", "norm_pix_loss"}
    assert (back.config.mask_ratio, back.config.norm_pix_loss) == (model.config.mask_ratio, model.config.norm_pix_loss)


def test_random_tiny_mae(tmp_path):
    there_and_back(mae_model(mask_ratio=0.6), tmp_path)


def test_trained_tiny_mae_with_raw_pixel_targets(tmp_path):
    there_and_back(train(mae_model(norm_pix_loss=False)), tmp_path)
    assert read_record(tmp_path / "ours")["config"]["model"]["positions"] == "sincos"
    assert not [name for name in flatten(load_params(tmp_path / "ours")) if name.endswith("pos_embed")]


def test_random_base_mae_of_few_blocks(tmp_path):
    there_and_back(mae_model(base=True, size=32, decoder_num_hidden_layers=2), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("base", [False, True])
def test_full_size_mae(base, tmp_path):
    there_and_back(mae_model(base=base, size=224, depth=12), tmp_path)
    # 3e-3 breaks Base within these steps: attention saturates, and its gradients (1e-10) are rounding errors.
    model = train(mae_model(base=base, size=224, depth=12), steps=4, lr=1e-4 if base else 3e-3)
    (tmp_path / "trained").mkdir()
    there_and_back(model, tmp_path / "trained")


def test_the_three_spellings_are_one_model(tmp_path):
    model = mae_model()
    model.save_pretrained(tmp_path / "written")
    assert any(".decoder_encoder." in name for name in load_file(tmp_path / "written/model.safetensors"))
    config = (tmp_path / "written/config.json").read_text()
    spellings = {
        "memory": {name: tensor.numpy() for name, tensor in model.state_dict().items()},
        "v4": {name: p.detach().numpy() for name, p in saved_names(model).items()},
    }
    assert "vit.layers.0.attention.q_proj.weight" in spellings["memory"]
    assert "decoder.decoder_layers.0.attention.attention.query.weight" in spellings["v4"]
    read = [load_params(imported(tmp_path / "written", tmp_path / "a"))]
    for name, weights in spellings.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        read.append(load_params(imported(tmp_path / name, tmp_path / f"{name}_in")))
    jax.tree.map(np.testing.assert_array_equal, read[0], read[1])
    jax.tree.map(np.testing.assert_array_equal, read[0], read[2])


def test_a_new_model_as_transformers_makes_it(tmp_path):
    """Its ε is 1e-12 and its positions are zero, in the decoder as well: neither may be taken for MAE's."""
    model = mae_model(layer_norm_eps=1e-12)
    model.vit.embeddings.position_embeddings.data.zero_()
    model.decoder.decoder_pos_embed.data.zero_()
    there_and_back(model, tmp_path)
    record = read_record(tmp_path / "ours")["config"]
    assert record["model"]["norm_eps"] == 1e-12 and record["objective"]["decoder"]["positions"] == "learned"


def test_cls_classifier_to_transformers_and_back(tmp_path):
    torch.manual_seed(0)
    names = ["cat", "dog", "eel"]
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=[16, 32],
        patch_size=8,
        layer_norm_eps=1e-12,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = transformers.ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.vit.embeddings.position_embeddings, std=0.5)
    model.save_pretrained(tmp_path / "theirs")
    folder = imported(tmp_path / "theirs", tmp_path / "ours", "--licence=mit")
    assert read_record(folder)["data"]["classes"] == names
    assert export_torch([f"--workdir={folder}", "--to=hf", f"--out={tmp_path / 'back'}", "--json"]) == 0
    back = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "back").eval()
    assert back.config.id2label == dict(enumerate(names))
    pixels = torch.randn(2, 3, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(back(pixels).logits, model(pixels).logits, atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "back/config.json").read_text())["layer_norm_eps"] == 1e-12
    assert "license: mit" in (tmp_path / "back/README.md").read_text()
