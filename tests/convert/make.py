"""Random weights in our own tree, and PyTorch models to convert: shared by the tests of the converter."""

import contextlib
import io

import numpy as np
import pytest

from lvit_jax.bin import app
from lvit_jax.bin.export_torch import main as export_torch
from lvit_jax.bin.import_torch import main as import_torch
from lvit_jax.convert.arch import Arch, shapes
from lvit_jax.convert.params import TABLES, tables
from lvit_jax.models.positions import sincos_2d
from lvit_jax.training.checkpoint import save_params
from lvit_jax.training.record import write_record
from lvit_jax.tree import unflatten

SMALL = Arch(width=24, depth=2, heads=3, patch_size=4, channels=3, image_size=(16, 16))
DECODER = {"width": 16, "depth": 1, "heads": 2, "positions": "sincos"}


def random_params(arch: Arch, seed: int = 0) -> dict:
    """A tree of random parameters; position tables only where they are learned."""
    rng = np.random.default_rng(seed)
    learned = {
        "encoder/pos_embed": arch.positions == "learned",
        "decoder/pos_embed": bool(arch.decoder) and arch.decoder["positions"] == "learned",
    }
    sizes = {name: shape for name, shape in shapes(arch).items() if name not in TABLES or learned[name]}
    flat = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in sizes.items()}
    assert set(tables(arch)) >= {name for name in flat if name in TABLES}
    return unflatten(flat)


def mae_model(*, size: int = 32, heads: int = 12, depth: int = 2, base: bool = False, **config):
    """A transformers.ViTMAEForPreTraining of MAE-Lite's Tiny (or MAE's Base) sizes, with random weights.

    Positions and ε are those of published weights: transformers 5 starts a new model with positions of zero.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    width, decoder = (768, (512, 8, 16)) if base else (192, (96, 1, 3))
    sizes = {
        "image_size": size,
        "patch_size": 16 if size > 64 else 8,
        "norm_pix_loss": True,
        "layer_norm_eps": 1e-6,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "decoder_hidden_size": decoder[0],
        "decoder_num_hidden_layers": decoder[1],
        "decoder_num_attention_heads": decoder[2],
        "decoder_intermediate_size": 4 * decoder[0],
    }
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**(sizes | config))).eval()
    grid = (model.config.image_size // model.config.patch_size,) * 2
    model.vit.embeddings.position_embeddings.data = torch.from_numpy(sincos_2d(width, grid))[None]
    model.decoder.decoder_pos_embed.data = torch.from_numpy(sincos_2d(decoder[0], grid))[None]
    return model


def imported(source, out, *flags: str):
    """The folder that `lvit import_torch` makes of a file or folder."""
    assert import_torch([f"--file={source}", f"--out={out}", *flags]) == 0
    return out


def workdir(path, params, model, objective, **record):
    """The folder of a run that ended with these parameters."""
    config = {"model": model, "objective": objective, "init": {"encoder": None, "teacher": None}}
    config["init"] |= record.pop("init", {})
    save_params(path, params)
    data = {"classes": None, "mean": [0.5] * 3, "std": [0.25] * 3}
    write_record(path, {"kind": "run", "config": config, "data": data} | record)
    return path


def exported(run, out, to, *flags):
    """The folder that `lvit export_torch` makes of a run, which compares outputs as it writes."""
    assert export_torch([f"--workdir={run}", f"--to={to}", f"--out={out}", *flags]) == 0
    return out


def fails(main, argv):
    """The one line on stderr of a binary that ends with code 2."""
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as stop:
        app.run(main, argv)
    assert stop.value.code == 2 and err.getvalue().count("\n") == 1
    return err.getvalue()
