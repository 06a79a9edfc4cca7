"""Reads PyTorch weights of a ViT, a Hiera or a Swin into a folder that runs start from, and that can be evaluated.

  lvit import_torch --file=mae_vit_base.pth --heads=12 --out=weights/mae_base
  lvit import_torch --file=mae_hiera_base_224.pth --out=weights/mae_hiera_base

Reads .pth and .pth.tar (facebookresearch/mae, MAE-Lite, timm, facebookresearch/hiera), .safetensors, and folders of
transformers (ViTMAE, ViT, Hiera) and timm; Swin in the layouts of SimMIM, MAE-Lite, Swin, timm and transformers; ViTs
with relative positions under BEiT's names; timm's RegNetY as a frozen teacher. Sizes come from the shapes. The number
of attention heads of a ViT does not show in them, so --heads is needed where no config.json states it (of a Hiera only
where its width is no official one: the last stage's). A Swin's image size is 224 where nothing else is said.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvit_jax.bin import app, flags
from lvit_jax.errors import InputError
from lvit_jax.tree import tree_hash

if TYPE_CHECKING:
    from lvit_jax.convert.load import Imported


def main(argv: Sequence[str] | None = None) -> int:
    """Converts and writes out/config.json and out/checkpoints/0; on any error nothing is written."""
    args = _flags(argv)
    _check_out(args.out)
    app.start()
    from lvit_jax.convert.load import count, load

    said = {"heads": args.heads, "decoder_heads": args.decoder_heads, "image_size": _size(args.image_size)}
    made = load(args.file, said)
    for note in made.notes:
        print(note)
    _write(args, made)
    figures = {
        "out": args.out,
        "layout": made.layout,
        **{key: value for key, value in made.arch._asdict().items() if value is not None},
        "parameters": count(made.params),
    }
    app.report(figures, args.json)
    return 0


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser("import_torch", __doc__)
    parser.add_argument("--file", required=True, help="a file of weights, or a folder of transformers or timm")
    parser.add_argument("--out", required=True, help="the folder to write; must not exist or be empty")
    parser.add_argument("--heads", type=int, help="attention heads of the encoder, where the file does not state them")
    parser.add_argument("--decoder-heads", type=int, help="of a MAE decoder (default: 16 for width 512, else width/32)")
    parser.add_argument("--image-size", help="N or HEIGHTxWIDTH, where the positions lie on no square grid")
    parser.add_argument("--licence", help="of the weights: recorded, and put into every export")
    parser.add_argument("--source", help="where the weights come from: recorded")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return parser.parse_args(argv)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not sides:
        raise InputError(f"--image-size={text!r} is neither N nor HEIGHTxWIDTH, such as 224 or 192x320")
    return int(sides[1]), int(sides[2] or sides[1])


def _check_out(out: str) -> None:
    from etils import epath

    path = epath.Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--out={out} is there already and not an empty folder")


def _write(args: argparse.Namespace, made: "Imported") -> None:
    """The whole folder under another name first, so that it is there whole or not at all."""
    from etils import epath

    from lvit_jax.training.checkpoint import save_params
    from lvit_jax.training.record import write_record

    out = epath.Path(args.out)
    part = out.parent / f"{out.name}.part"
    if part.exists():
        part.rmtree()
    record = {
        "kind": "import",
        "config": made.config,
        "data": made.data,
        "hashes": {"encoder": tree_hash(made.params["encoder"])},
        "source": args.source or str(args.file),
        "licence": args.licence,
        "notes": made.notes,
    }
    try:
        save_params(part, made.params)
        write_record(part, record)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        if part.exists():
            part.rmtree()


if __name__ == "__main__":
    app.run(main, sys.argv[1:])
