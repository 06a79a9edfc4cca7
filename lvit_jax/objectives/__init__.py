"""The menu of methods on one screen: config name -> 'module:function'. Imports nothing."""

OBJECTIVES = {
    "mae": "lvit_jax.objectives.mae:make_mae",
    "distill": "lvit_jax.objectives.distill:make_distill",
    "d2": "lvit_jax.objectives.distill:make_d2",
    "tinymim": "lvit_jax.objectives.tinymim:make_tinymim",
    "moco": "lvit_jax.objectives.moco:make_moco",
    "simmim": "lvit_jax.objectives.simmim:make_simmim",
    "simmim_d2": "lvit_jax.objectives.simmim_d2:make_simmim_d2",
    "classify": "lvit_jax.objectives.classify:make_classify",
    "classify_distill": "lvit_jax.objectives.classify_distill:make_classify_distill",
}

# These take a teacher as their second argument; its weights must come from a file, never from an initialiser.
NEEDS_TEACHER = frozenset({"distill", "d2", "tinymim", "simmim_d2", "classify_distill"})
# Of these, those whose teacher is a whole classifier and not an encoder.
NEEDS_CLASSIFIER = frozenset({"classify_distill"})
# Those that classify: evaluations and predictions read their logits.
CLASSIFIERS = frozenset({"classify", "classify_distill"})
