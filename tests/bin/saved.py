"""What a run has saved, for comparisons."""

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp


def saved(workdir, step):
    """Every number of a checkpoint by name, on whatever devices it was saved: weights, optimizer, extra, averages."""
    path = workdir / "checkpoints" / str(step)
    targets = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), ocp.checkpointables_metadata(path).metadata)
    leaves = jax.tree_util.tree_leaves_with_path(ocp.load_checkpointables(path, targets))
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}
