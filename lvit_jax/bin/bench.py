"""Measures this machine, beside PyTorch where PyTorch is installed.

lvit bench step --model=vit_tiny --batch=64           # a whole training step
lvit bench data --source=folder:/my/images --json     # decoding and augmenting images
lvit bench probe --image_size=112 --batch=32          # linear probes of all layers, beside one
"""

from collections.abc import Sequence

from lvit_jax.bin import app, bench_data, bench_probe, bench_step, flags

PARTS = {"step": bench_step, "data": bench_data, "probe": bench_probe}


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the flags of one part, measures, prints."""
    parser = flags.Parser("bench", __doc__)
    parts = parser.add_subparsers(dest="part", required=True, parser_class=_Part)
    for name, part in PARTS.items():
        sub = parts.add_parser(name, doc=part.__doc__)
        part.add_flags(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    app.start()
    app.report(PARTS[args.part].measure(args), args.json)
    return 0


class _Part(flags.Parser):
    """argparse makes the parsers of subcommands with a `prog` of its own; theirs is the command they belong to."""

    def __init__(self, prog: str, doc: str):
        super().__init__(prog.removeprefix("lvit "), doc)


if __name__ == "__main__":
    app.run(main)
