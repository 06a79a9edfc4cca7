"""What a program moves to and from the HBM: by its text, written by hand, and by libtpu's text of known programs."""

import importlib.util
import json
import subprocess
import sys

import pytest

from lvit_jax.training.traffic import UnknownLength, hbm_bytes, in_hbm

MIB = 2**20
PROGRAM = """HloModule jit_step

%fused (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %neg = f32[8,128]{1,0:T(8,128)} negate(%p)
}

%body (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %y = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

%cond (arg: (s32[], f32[8,128])) -> pred[] {
  %most = s32[]{:T(128)} constant(3)
  %arg.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %most), direction=DIRECTION, metadata={}
}

ENTRY %main (a: f32[8,128], b: bf16[64,50,16]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = bf16[64,50,16]{2,1,0:T(8,128)(2,1)} parameter(1)
  %near = f32[8,128]{1,0:T(8,128)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %inside = f32[8,128]{1,0:T(8,128)S(1)} fusion(%near, %near), kind=kLoop, calls=%fused
  %away = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%inside)
  %there = f32[8,128]{1,0:T(8,128)} copy-done(%away)
  %start = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %there)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%start), condition=%cond, body=%body, backend_config={LENGTH}
  %heads = bf16[64,50,16]{2,1,0:T(8,128)(2,1)} fusion(%b), kind=kLoop, calls=%fused
  ROOT %end = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
TILE = 8 * 128 * 4  # bytes of one array of the program


@pytest.mark.parametrize(("length", "turns"), [('{"known_trip_count":{"n":"5"}}', 5), ("{}", 3)])
def test_only_what_crosses_counts_and_loops_are_multiplied_out(length, turns):
    near = TILE  # reads %a; its result and all of %inside stay in the chip
    away = TILE  # writes once
    loop = turns * 2 * TILE
    heads = 2 * (64 * 56 * 128 * 2)  # 50 -> 56 and 16 -> 128: what tiles take
    text = PROGRAM.replace("{LENGTH}", length).replace("DIRECTION", "LT")
    assert hbm_bytes(text) == near + away + loop + heads


def test_a_loop_of_unknown_length_is_not_guessed():
    with pytest.raises(UnknownLength, match="loop"):
        hbm_bytes(PROGRAM.replace("{LENGTH}", "{}").replace("DIRECTION", "NE"))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("f32[3]", 12),  # without a layout, as it is
        ("f32[3]{0:T(128)}", 128 * 4),
        ("bf16[7,5]{0,1:T(8,128)(2,1)}", 8 * 128 * 2),  # column by column: 7 is the minor dimension
        ("bf16[7,5]{0,1:T(8,128)(2,1)S(1)}", 0),
        ("(f32[8,128]{1,0:T(8,128)}, pred[8,128]{1,0:T(8,128)(4,1)})", 8 * 128 * 5),
    ],
)
def test_sizes(kind, size):
    assert in_hbm(kind) == size


COMPILE = """
import json, os
from lvit_jax.training.chips import libtpu_environment, parse_topology
topology = parse_topology("v5e:2x2")
os.environ.update(libtpu_environment(topology))
import jax, jax.numpy as jnp
from lvit_jax.training import ahead
from lvit_jax.training.traffic import hbm_bytes
sharding = jax.sharding.SingleDeviceSharding(ahead.devices(topology)[0])
def moved(function, *arrays):
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in arrays]
    return hbm_bytes(jax.jit(function).lower(*arrays).compile().as_text())
square, wide = ((4096, 4096), jnp.bfloat16), ((16384, 8192), jnp.float32)
def power(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]
print(json.dumps({
    "product": moved(jnp.matmul, square, square),
    "sum": moved(jnp.add, wide, wide),
    "power": moved(power, ((16384, 4096), jnp.bfloat16), square),
}))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_known_programs_of_a_real_compiler():
    """What must be read and written at least, and little more; what is larger than the vector memory cannot stay."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True)
    moved = json.loads(done.stdout.splitlines()[-1])
    assert moved["product"] == pytest.approx(3 * 32 * MIB, rel=0.01)
    assert moved["sum"] == pytest.approx(3 * 512 * MIB, rel=0.01)
    turn = 2 * 128 * MIB  # reads and writes the state; the weights stay in the chip; XLA copies the state before that
    assert 7 * turn <= moved["power"] <= 1.01 * ((1 + 2 * 7) * turn + 32 * MIB)
