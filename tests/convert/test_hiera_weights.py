"""Hiera files: transformers folders and facebookresearch/hiera checkpoints, imported, computed with, written back."""

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from make import imported

from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.build.parts import encoder
from lvit_jax.build.trained import load_trained
from lvit_jax.convert import hiera
from lvit_jax.convert.load import load
from lvit_jax.errors import InputError
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record

SIZES = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [2, 4, 8, 16], "image_size": [64, 64]}
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
IMAGES = PIXELS.permute(0, 2, 3, 1).numpy()
NOISE = np.random.default_rng(0).random((2, 4), np.float32)


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """transformers' MAE and the folder it was saved in."""
    folder = tmp_path_factory.mktemp("hf") / "mae"
    decoder = {"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 4}
    config = transformers.HieraConfig(**SIZES, **decoder, num_query_pool=2, mask_ratio=0.5, normalize_pixel_loss=False)
    model = randomised(transformers.HieraForPreTraining(config))
    model.save_pretrained(folder)
    return model, folder


def test_transformers_mae(mae, tmp_path):
    model, folder = mae
    out = imported(folder, tmp_path / "ours")
    config, params = read_record(out)["config"], load_params(out)
    objective = config["objective"]
    assert (objective["mask_ratio"], objective["norm_pix"], config["model"]["first_heads"]) == (0.5, False, 2)
    ours = masked_autoencoder(encoder(config["model"]), objective["decoder"], objective["mask_ratio"])
    prediction = np.asarray(jax.jit(ours.apply)({"params": params}, IMAGES, NOISE).prediction)
    with torch.no_grad():
        theirs = model(PIXELS, noise=torch.tensor(NOISE)).logits.numpy()
    prediction = prediction.reshape(2, 16, 256, 3).swapaxes(2, 3).reshape(theirs.shape)  # theirs: channel first
    np.testing.assert_allclose(prediction, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_mae_goes_through_the_official_layout_and_back(mae, tmp_path):
    model, folder = mae
    first = load(folder, {})
    official = hiera.to_torch(first.params, first.arch, "hiera")
    torch.save({"model_state": {name: torch.from_numpy(x) for name, x in official.items()}}, tmp_path / "mae.pth")
    again = load(tmp_path / "mae.pth", {"heads": 16, "decoder_heads": 4})
    assert again.layout == "hiera" and again.arch == first.arch
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    back = hiera.to_torch(again.params, again.arch, "hf")
    theirs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert set(back) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_official_classifier_equals_timm(tmp_path):
    """timm's Hiera has the official names but for those of its head."""
    sizes = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1), "img_size": (64, 64), "num_classes": 7}
    model = randomised(timm.models.hiera.Hiera(**sizes))
    names = {"head.fc.weight": "head.projection.weight", "head.fc.bias": "head.projection.bias"}
    names |= {"head.norm.weight": "norm.weight", "head.norm.bias": "norm.bias"}
    state = {names.get(name, name): tensor for name, tensor in model.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "hiera.pth")
    out = imported(tmp_path / "hiera.pth", tmp_path / "ours", "--heads=8")
    config = read_record(out)["config"]
    assert config["model"]["q_pool"] == 3 and config["model"]["depths"] == [1, 1, 2, 1]
    trained = load_trained(out)
    with torch.no_grad():
        theirs = model(PIXELS).numpy()
    logits = jax.jit(trained.objective.predict)(trained.params, trained.state, {"image": IMAGES})["logits"]
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    made = load(tmp_path / "hiera.pth", {"heads": 8})
    for name, array in hiera.to_torch(made.params, made.arch, "hiera").items():
        np.testing.assert_array_equal(array, state[name].numpy(), err_msg=name)


def test_what_does_not_fit_is_named(mae, tmp_path):
    weights = {name: tensor.numpy() for name, tensor in mae[0].state_dict().items()}
    made = load(mae[1], {})
    with pytest.raises(InputError, match=r"no tensor 'encoder_norm\.weight'"):
        hiera.from_torch({k: v for k, v in weights.items() if k != "encoder_norm.weight"}, made.arch, "hf", "file")
    with pytest.raises(InputError, match="'more' that a Hiera of depths"):
        hiera.from_torch(weights | {"more": np.zeros(1)}, made.arch, "hf", "file")
    bare = {k: v for k, v in weights.items() if not k.startswith("decoder.")}
    with pytest.raises(InputError, match="without classifier and without decoder"):
        hiera.infer(bare, "hf", {}, "file")
    odd = hiera.to_torch(made.params, made.arch, "hiera") | {"patch_embed.proj.weight": np.zeros((20, 3, 7, 7))}
    with pytest.raises(InputError, match="say the last stage's with --heads=N"):
        hiera.infer(odd, "hiera", {}, "file")


def there_and_back(folder, tmp_path, kind):
    """Import, export to both formats (which compare outputs as they write), load with transformers."""
    first = imported(folder, tmp_path / "first")
    for to in ("hf", "mae"):
        assert export_torch([f"--workdir={first}", f"--to={to}", f"--out={tmp_path / to}"]) == 0
        assert "# Hiera" in (tmp_path / to / "README.md").read_text()
    tensors = torch.load(tmp_path / "mae/hiera.pth", weights_only=True)["model_state"]
    assert tensors["blocks.1.proj.weight"].shape == (32, 16)
    with pytest.raises(InputError, match="--to=hf or --to=mae"):
        export_torch([f"--workdir={first}", "--to=timm", f"--out={tmp_path / 'timm'}"])
    return getattr(transformers, kind).from_pretrained(tmp_path / "hf").eval()


def test_mae_is_exported(mae, tmp_path):
    back = there_and_back(mae[1], tmp_path, "HieraForPreTraining")
    with torch.no_grad():
        losses = [model(PIXELS, noise=torch.tensor(NOISE)).loss.item() for model in (mae[0], back)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (back.config.mask_ratio, back.config.normalize_pixel_loss) == (0.5, False)


def test_classifier_is_exported(tmp_path):
    model = randomised(transformers.HieraForImageClassification(transformers.HieraConfig(**SIZES, num_labels=3)))
    model.save_pretrained(tmp_path / "theirs")
    back = there_and_back(tmp_path / "theirs", tmp_path, "HieraForImageClassification")
    with torch.no_grad():
        torch.testing.assert_close(back(PIXELS).logits, model(PIXELS).logits, atol=1e-6, rtol=1e-6)
