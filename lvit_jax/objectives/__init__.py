"""The menu of methods on one screen: config name -> 'module:function'. Imports nothing."""

OBJECTIVES = {
    "mae": "lvit_jax.objectives.mae:make_mae",
    "distill": "lvit_jax.objectives.distill:make_distill",
    "d2": "lvit_jax.objectives.distill:make_d2",
    "simmim": "lvit_jax.objectives.simmim:make_simmim",
    "simmim_d2": "lvit_jax.objectives.simmim_d2:make_simmim_d2",
    "classify": "lvit_jax.objectives.classify:make_classify",
}

# These take a teacher as their second argument; its weights must come from a file, never from an initialiser.
NEEDS_TEACHER = frozenset({"distill", "d2", "simmim_d2"})
