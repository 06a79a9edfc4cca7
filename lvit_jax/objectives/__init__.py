"""The menu of methods on one screen, and what each asks of its encoder. Imports no jax."""

from typing import NamedTuple

from lvit_jax.errors import InputError
from lvit_jax.models import ABILITIES, ENCODERS, KINDS


class Method(NamedTuple):
    """A training method: 'module:function' behind the config's `objective` section."""

    make: str
    needs: frozenset[str] = frozenset()  # `models.ABILITIES` of its encoder, and of a teacher that is one
    teacher: str | None = None  # its second argument: an "encoder" or a whole "classifier"
    classifies: bool = False  # evaluations and predictions read its logits
    frozen: bool = False  # its encoder, which is never trained: the weights that `init.encoder` names
    compares: bool = False  # examples of a batch, or norms by them, so that accumulation over smaller ones changes it


OBJECTIVES = {
    "mae": Method("lvit_jax.objectives.mae:make_mae", frozenset({"keep"})),
    "distill": Method("lvit_jax.objectives.distill:make_distill", frozenset({"keep"}), "encoder"),
    "d2": Method("lvit_jax.objectives.distill:make_d2", frozenset({"keep", "inner"}), "encoder"),
    "tinymim": Method("lvit_jax.objectives.tinymim:make_tinymim", frozenset({"keep", "cls"}), "encoder"),
    "moco": Method("lvit_jax.objectives.moco:make_moco", frozenset({"cls"}), compares=True),
    "simmim": Method("lvit_jax.objectives.simmim:make_simmim", frozenset({"mask"})),
    "simmim_d2": Method("lvit_jax.objectives.simmim_d2:make_simmim_d2", frozenset({"mask", "stages"}), "encoder"),
    "classify": Method("lvit_jax.objectives.classify:make_classify", classifies=True),
    "classify_distill": Method(
        "lvit_jax.objectives.classify_distill:make_classify_distill", frozenset({"cls"}), "classifier", True
    ),
    "probe": Method("lvit_jax.objectives.probe:make_probe", frozen=True, compares=True),
}

# The weights of a teacher or of a frozen encoder must come from a file, never from an initialiser.
NEEDS_TEACHER = frozenset(name for name, method in OBJECTIVES.items() if method.teacher)
NEEDS_CLASSIFIER = frozenset(name for name, method in OBJECTIVES.items() if method.teacher == "classifier")
NEEDS_ENCODER = frozenset(name for name, method in OBJECTIVES.items() if method.frozen)
CLASSIFIERS = frozenset(name for name, method in OBJECTIVES.items() if method.classifies)


def check_encoder(name: str, size: str, who: str = "an encoder") -> None:
    """Raises InputError where an encoder, or a teacher, cannot do what an objective asks of it."""
    kind, needs = ENCODERS[size][0], OBJECTIVES[name].needs
    can = KINDS[kind].can
    if missing := [ability for ability in ABILITIES if ability in needs - can]:
        able = ", ".join(other for other in KINDS if needs <= KINDS[other].can)
        raise InputError(
            f"objective {name!r} needs {who} that can {ABILITIES[missing[0]]}, as a {kind} such as {size!r} cannot; "
            f"these kinds can: {able}; a {kind} takes: {', '.join(m for m in OBJECTIVES if OBJECTIVES[m].needs <= can)}"
        )
