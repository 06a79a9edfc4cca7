"""What a finished pre-training took, read from its workdir: updates, images, FLOPs, seconds."""

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from lvit_jax.build.parts import Config, encoder
from lvit_jax.build.plan import abstract_step, step_flops
from lvit_jax.data.recipes import VIEWS
from lvit_jax.objectives.distill import view
from lvit_jax.training.flops import count_flops
from lvit_jax.training.record import read_record
from lvit_jax.training.report import read_metrics


def run_cost(workdir: epath.PathLike) -> dict[str, Any]:
    """What one run took, without what its teacher took before it.

    Returns:
      updates; images, seen by them in all; views, how many crops of each image an update sees; student_flops, of all
      updates, momentum encoder and decoder included; teacher_flops, of a D² teacher's forward passes in them; seconds
      of the steps, without compiling, evaluating and saving.
    """
    record = read_record(workdir)
    config, data, steps = record["config"], record["data"], record["steps"]
    classes = len(data["classes"]) if data["classes"] else None
    step = abstract_step(config, data["size"], classes)
    teacher = d2_teacher_flops(config, step.batch["image"]) if config["objective"]["name"] == "d2" else 0
    return {
        "updates": steps,
        "images": steps * config["train"]["batch_size"],
        "views": VIEWS[config["data"]["recipe"]],
        "student_flops": steps * (step_flops(step, config["train"]["accumulate"]) - teacher),
        "teacher_flops": steps * teacher,
        "seconds": step_seconds(workdir, config["train"]["batch_size"]),
    }


def d2_teacher_flops(config: Config, images: jax.ShapeDtypeStruct) -> int:
    """FLOPs of the frozen teacher in one update of D²-MAE: up to the attention that it teaches, on visible patches.

    Args: config: of the D² run; images: its batch [B,H,W,C].
    """
    section, theirs = config["objective"], read_record(config["init"]["teacher"])["config"]["model"]
    teacher = encoder({**theirs, "remat": False})
    patches = (images.shape[1] // teacher.patch_size) * (images.shape[2] // teacher.patch_size)
    kept = max(1, int(patches * (1 - section["mask_ratio"])))
    keep = jax.ShapeDtypeStruct((images.shape[0], kept), jnp.int32)
    params = jax.eval_shape(teacher.init, jax.random.key(0), images, keep)

    def teach(params, images, keep):
        return view(teacher.apply(params, images, keep), section["teacher_layer"], section["target"])

    return count_flops(teach, params, images, keep)


def step_seconds(workdir: epath.PathLike, batch_size: int) -> float:
    """Seconds of all steps of a run; the first of each start, which compiles, counts as the ones after it."""
    records = [record for record in read_metrics(workdir) if record.get("images_per_s")]
    ends = [0, *(record["step"] for record in records)]
    rates = [record["images_per_s"] for record in records]
    return sum((b - a) * batch_size / rate for a, b, rate in zip(ends, ends[1:], rates, strict=False))
