"""Writes the weights of a run or an import for PyTorch, with a model card, and checks what it wrote.

  lvit export_torch --workdir=runs/ft --to=timm --out=exports/vit_tiny

--to=timm   a folder for timm.create_model("local-dir:…") and transformers' AutoModelForImageClassification
--to=mae    one file in the layout of the reference code (.pth where PyTorch is installed)
--to=hf     a folder for transformers

What each holds:

  plain ViT           timm: VisionTransformer; mae: facebookresearch/mae and MAE-Lite; hf: ViTMAEForPreTraining, or
                      ViTForImageClassification for a classifier on CLS
  relative positions  timm: Beit; mae: MAE-Lite (BEiT's names)
  Hiera               mae: facebookresearch/hiera; hf: HieraForPreTraining or HieraForImageClassification; a
                      pre-trained one always goes with its decoder
  Swin                timm: SwinTransformer; mae: Swin and SimMIM (microsoft) and MAE-Lite; hf: SwinModel or
                      SwinForImageClassification

The written files are read back and must give the same outputs as the JAX model on a fixed batch. A D²-MAE run gives
blocks 1 to 12; with its decoder (always for hf, --decoder for mae) it is a masked autoencoder of 8 blocks. The head of
SimMIM goes along where the model is a Swin and the format is mae (--no-decoder leaves it out).
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvit_jax.bin import app, flags
from lvit_jax.convert import FORMATS
from lvit_jax.errors import InputError, unknown

if TYPE_CHECKING:
    from lvit_jax.convert.record import AnyArch


def main(argv: Sequence[str] | None = None) -> int:
    """Exports into a folder that is there whole or not at all."""
    args = _flags(argv)
    app.start()
    from lvit_jax.convert.record import arch_of, with_decoder
    from lvit_jax.training.record import read_record

    record = read_record(args.workdir)
    from lvit_jax.training.checkpoint import load_params  # jax and orbax: seconds

    params = load_params(args.workdir, ema=args.ema)
    arch = arch_of(record, params, with_decoder(record, params, args.to) if args.decoder is None else args.decoder)
    figures = _export(args, params, arch, record)
    app.report(figures, args.json)
    return 0


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = flags.Parser("export_torch", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder of a run or of an import")
    parser.add_argument("--to", required=True, help=", ".join(FORMATS))
    parser.add_argument("--out", required=True, help="the folder to write; must not exist or be empty")
    on_off = argparse.BooleanOptionalAction
    parser.add_argument("--ema", action=on_off, default=True, help="the averaged weights, where the run keeps them")
    parser.add_argument("--decoder", action=on_off, help="with the decoder, or the head of SimMIM on a Swin (mae only)")
    parser.add_argument("--licence", help="of these weights, for the model card; default: what an import stated")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    args = parser.parse_args(argv)
    if args.to not in FORMATS:
        raise unknown("export format", args.to, FORMATS)
    if args.decoder is not None and args.to != "mae":
        raise InputError(f"--{'' if args.decoder else 'no-'}decoder is a choice of --to=mae, not of --to={args.to}")
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out={args.out} is there already and not an empty folder")
    return args


def _export(args: argparse.Namespace, params: Mapping, arch: "AnyArch", record: Mapping) -> dict[str, Any]:
    from lvit_jax.convert.card import card, snippet
    from lvit_jax.convert.export import check, write
    from lvit_jax.convert.record import decode_from, pixels_of

    out = Path(args.out)
    part = out.parent / f"{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lineage = _lineage(args.workdir, record)
    lineage[0]["licence"] = args.licence or lineage[0]["licence"]
    data = pixels_of(record)
    notes = [*_notes(arch, decode_from(record)), *_left_out(params, arch, args.to)]
    settings = {"licence": lineage[0]["licence"], "notes": notes}
    try:
        pickled = write(part, args.to, params, arch, data, record["config"]["objective"] or {}, settings)
        code = snippet(args.to, arch, str(out), pickled)
        (part / "README.md").write_text(card(args.to, arch, data, lineage, notes, code))
        figures = check(part, args.to, params, arch)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if args.to == "mae" and not pickled:
        name = next(out.glob("*.safetensors")).stem
        print(f"PyTorch is not installed: wrote {name}.safetensors in place of {name}.pth")
    return {"out": str(out), "format": args.to, **figures, "notes": "; ".join(notes)}


def _notes(arch: "AnyArch", inner: int | None) -> list[str]:
    """What the reader of an export of a D²-MAE run, whose norm and decoder read an inner block, must know."""
    if not inner or arch.pool:
        return []
    if arch.decoder:
        return [f"The depth-{inner} masked autoencoder of a D²-MAE run: its decoder reads block {inner}."]
    return [f"Pre-trained by D²-MAE: the final norm was trained on the output of block {inner}, not of the last block."]


def _left_out(params: Mapping, arch: "AnyArch", to: str) -> list[str]:
    from lvit_jax.convert.relative import RelativeArch

    notes = []
    if "dist_head" in params:
        notes += [
            "Fine-tuned with a distillation head, which is left out: the logits are those of the main head alone."
        ]
    if to == "timm" and isinstance(arch, RelativeArch) and not arch.qv_bias:
        notes += ["timm's BEiT has no bias of keys: it is left out, since the softmax takes away what it adds."]
    return notes


def _lineage(workdir: str, record: Mapping[str, Any], role: str = "this model") -> list[dict[str, Any]]:
    """This workdir and, as far as their folders are still there, the ones it started or learnt from."""
    from lvit_jax.training.record import read_record

    config = record["config"]
    here = {
        "role": role,
        "workdir": workdir,
        "objective": (config["objective"] or {}).get("name"),
        "data": config.get("data", {}).get("source"),
        "source": record.get("source"),
        "licence": record.get("licence"),
    }
    steps = [here]
    for key, name in {"encoder": "initialised from", "teacher": "teacher"}.items():
        parent = (config.get("init") or {}).get(key)
        if not parent:
            continue
        try:
            steps += _lineage(parent, read_record(parent), name)
        except InputError:
            steps.append({"role": name, "workdir": parent, "licence": None})
    return steps


if __name__ == "__main__":
    app.run(main, sys.argv[1:])
