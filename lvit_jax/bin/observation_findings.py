"""What came out of an observation, as sentences computed from its figures: nothing here knows the answer."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lvit_jax.bin.demo_report import cell_text
from lvit_jax.bin.observation_plan import ALL, NEIGHBOURS, STARTS

NAMES = STARTS | {"scratch": "the supervised model", "untrained": "untrained"}
# What a row of `lvit eval_probe` holds: how to read top-1 in percent from it.
MEASURES = {
    "Linear probe": lambda row: row["linear"]["top1"],
    f"{NEIGHBOURS}-NN": lambda row: row["knn"][str(NEIGHBOURS)]["top1"],
}


def findings(results: Mapping[str, Any]) -> list[str]:
    """One sentence or two per figure of the report, then what the papers say and whether it came out here."""
    labels = [_accuracy(labels, rows, results) for labels, rows in results["accuracy"].items()]
    layers = [_layers(measure, results["layers"]) for measure in MEASURES]
    return [*labels, *layers, *claims(results)]


def _accuracy(labels: str, rows: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The ranking, and how the first difference compares with the spread."""
    order = sorted(rows, key=lambda start: -rows[start]["mean"])
    ranking = ", ".join(f"{STARTS[start]} {cell_text(rows[start])}" for start in order)
    first, second = (rows[start] for start in order[:2])
    gap, image = first["mean"] - second["mean"], 100 / results["val_images"]
    if first["sd"] is None:
        scale = f"one run each, one image is {image:.2f}"
    else:
        spread = max(first["sd"], second["sd"])
        scale = f"{'more' if gap > spread else 'not more'} than the standard deviation over {results['seeds']} seeds"
    count = f"all {results['images']}" if labels == ALL else labels
    return f"Fine-tuned on {count} labels (top-1, %): {ranking}. The first two differ by {gap:.1f} points ({scale})."


def by_layer(rows: Sequence[Mapping[str, Any]], measure: str, pool: str) -> list[float]:
    """Top-1 in percent of layers 0, 1, ... of one model."""
    return [MEASURES[measure](row) for row in rows if row["pool"] == pool]


def pools(layers: Mapping[str, Any]) -> list[str]:
    """The ways to make one vector of an image's tokens that were probed."""
    return list(dict.fromkeys(row["pool"] for rows in layers.values() for row in rows))


def _layers(measure: str, layers: Mapping[str, Any]) -> str:
    """Of each model the best layer and pooling, and how far below it the last layer is."""
    parts = []
    for name, rows in layers.items():
        best = max(rows, key=MEASURES[measure])
        drop = MEASURES[measure](best) - by_layer(rows, measure, best["pool"])[-1]
        parts.append(f"{NAMES[name]} {MEASURES[measure](best):.1f} at layer {best['layer']} ({drop:.1f})")
    about = f"{measure}, best layer of each frozen model (and how many points the last layer is below it)"
    return f"{about}: {'; '.join(parts)}."


def diagonal(matrix: Sequence[Sequence[float]]) -> list[float]:
    """CKA between layers of the same number: those of two models of one depth."""
    return [row[i] for i, row in enumerate(matrix)]


def block_means(blocks: Sequence[Sequence[float]]) -> list[float]:
    """A figure of heads, averaged over the heads of each block."""
    return [statistics.fmean(heads) for heads in blocks]


def claims(results: Mapping[str, Any]) -> list[str]:
    """What MAE-Lite and D²-MAE observe on ImageNet (directions, not sizes; VISUAL.md), and what was found here."""
    return [*_likeness(results["cka"]), *_breadth(results["entropy"]), _repair(results["accuracy"])]


def _likeness(matrices: Mapping[str, Any]) -> list[str]:
    cka = {name: diagonal(matrix) for name, matrix in matrices.items()}
    lower, upper, moco, d2 = cka["mae"][1], cka["mae"][-1], cka["moco"][-1], cka["d2"][-1]
    none = f"{cka['untrained'][-1]:.2f} for an untrained model"  # likeness without any training
    return [
        _claim(
            "MAE's lower layers resemble those of a supervised model more than its upper layers do",
            f"CKA {lower:.2f} behind the first block, {upper:.2f} at the last layer ({none})",
            [lower - upper],
        ),
        _claim(
            "MoCo-v3's upper layers resemble the supervised model's more than MAE's do",
            f"CKA at the last layer {moco:.2f} and {upper:.2f} ({none})",
            [moco - upper],
        ),
        _claim(
            "distillation raises the likeness of the upper layers",
            f"CKA at the last layer, D²-MAE {d2:.2f} (through the norm of its inner block), MAE {upper:.2f} ({none})",
            [d2 - upper],
        ),
    ]


def _breadth(blocks: Mapping[str, Any]) -> list[str]:
    mae, d2, supervised = (block_means(blocks[name])[-1] for name in ("mae", "d2", "scratch"))
    return [
        _claim(
            "attention in the upper layers is narrower after MAE than in a supervised model",
            f"entropy of the last block {mae:.2f} and {supervised:.2f} nats",
            [supervised - mae],
        ),
        _claim(
            "distillation makes it broader again",
            f"entropy of the last block, D²-MAE {d2:.2f}, MAE {mae:.2f} nats",
            [d2 - mae],
        ),
    ]


def _repair(accuracy: Mapping[str, Any]) -> str:
    gaps = {labels: rows["d2"]["mean"] - rows["mae"]["mean"] for labels, rows in accuracy.items()}
    found = ", ".join(f"{labels} labels {gap:+.1f} points" for labels, gap in gaps.items())
    claim = "fine-tuned, a student of D²-MAE is more accurate than one of MAE"
    return _claim(claim, f"D²-MAE against MAE with {found}", list(gaps.values()))


def _claim(claim: str, found: str, gaps: Sequence[float]) -> str:
    """`gaps`: positive where it came out as the papers say; below half a unit of the last digit shown they are none."""
    signs = [(gap > 0) - (gap < 0) if abs(gap) >= 0.005 else 0 for gap in gaps]
    if min(signs) == max(signs):
        verdict = {1: "so here, too", 0: "no difference here", -1: "the reverse here"}[signs[0]]
    else:
        verdict = "so here in part" if max(signs) == 1 else "not so here"
    return f"The papers: {claim}. Here: {found}: {verdict}."
