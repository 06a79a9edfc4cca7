"""Checks that the functions behind `model` sections share."""

from lvit_jax.errors import InputError, unknown
from lvit_jax.models import ENCODERS

DTYPES = ("bfloat16", "float32")


def size_of(name: str, dtype: str, *kinds: str) -> dict:
    """The size of a name of `models.ENCODERS`.

    Raises:
      InputError: a name of no such kind, or an unknown type of the computation.
    """
    sizes = {key: size for key, (kind, size) in ENCODERS.items() if kind in kinds}
    if name not in sizes:
        raise unknown("model", name, sizes)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return dict(sizes[name])


def check_divides(what: str, width: int, field: str, heads: int) -> None:
    """Raises InputError where a width is no multiple of a number of heads, with the nearest number that divides it."""
    if width % heads:
        near = min((h for h in range(1, width + 1) if width % h == 0), key=lambda h: abs(h - heads))
        raise InputError(f"{what} {width} is no multiple of {field}={heads}; nearest: {near}")
