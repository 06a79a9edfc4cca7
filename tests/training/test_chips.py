"""Names of topologies, what the table says of them, and what is read from libtpu's words."""

import pytest

from lvit_jax.errors import InputError
from lvit_jax.training.ahead import _needed, read_collectives
from lvit_jax.training.chips import CHIPS, KINDS, libtpu_environment, libtpu_options, parse_topology, peak_flops


@pytest.mark.parametrize(
    ("name", "chips", "devices", "accelerator"),
    [
        ("v4:2x2x4", 16, 16, "v4-32"),  # two cores a chip, one device (megacore)
        ("v5e:4x4", 16, 16, "v5litepod-16"),
        ("v5p:2x2x1", 4, 4, "v5p-8"),
        ("v6e:2x4", 8, 8, "v6e-8"),
        ("tpu7x:2x2x1", 4, 8, "tpu7x-8"),  # two cores a chip, two devices
    ],
)
def test_chips_devices_and_accelerator_types(name, chips, devices, accelerator):
    topology = parse_topology(name)
    assert (topology.chips, topology.devices, str(topology)) == (chips, devices, name)
    assert libtpu_environment(topology)["TPU_ACCELERATOR_TYPE"] == accelerator
    assert libtpu_options(topology)["topology_name"] == name


def test_the_peak_of_a_device_of_every_kind():
    assert {KINDS[kind] for kind in KINDS} == CHIPS.keys()
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU7x") == 2307e12 / 2  # a chip is two devices
    assert peak_flops("cpu") is None


def test_slices_multiply_devices():
    topology = parse_topology("v5e:4x4", slices=4)
    assert (topology.chips, topology.devices, str(topology)) == (16, 64, "v5e:4x4 x 4 slices")
    assert libtpu_options(topology)["num_slices"] == 4
    with pytest.raises(InputError, match="least is 1"):
        parse_topology("v5e:4x4", slices=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5x:4x4", ["'v5x'", "did you mean 'v5", "tpu7x"]),
        ("v5e:3x5", ["'3x5'", "'v5e:4x4'", "16 chips"]),
        ("v5e:8x4", ["'8x4'", "'v5e:4x8'"]),
        ("v5p:4x4", ["'4x4'", "'v5p:2x2x4'"]),
        ("v6e:32x32", ["'v6e:16x16'"]),
        ("v5e", ["'v5e'", "such as v5e:4x4", "tpu7x"]),
        ("v5e:4xfour", ["'4xfour'", "valid: 16x16, 1x1"]),
        ("v5e:4x²", ["'4x²'", "valid: 16x16, 1x1"]),
        ("V5E:4x4", ["'V5E:4x4'", "write 'v5e:4x4'"]),
        ("v5litepod-16", ["'v5litepod-16'", "write 'v5e:4x4'"]),
        ("v5p-8", ["'v5p-8'", "write 'v5p:2x2x1'"]),
    ],
)
def test_wrong_names_are_one_line_with_the_nearest(name, words):
    with pytest.raises(InputError) as error:
        parse_topology(name)
    assert all(word in str(error.value) for word in words), error.value


def test_the_table_is_per_chip_and_usable_memory_is_close_to_what_the_chip_has():
    for name, chip in CHIPS.items():
        assert 0.95 < chip.usable / chip.hbm < 1.01, name
        assert 100 < chip.flops / chip.bandwidth < 600, name  # FLOPs per byte at which compute and memory meet


def test_words_of_a_compiler_that_ran_out_of_memory():
    used = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm. Exceeded hbm by 1.5G"
    assert _needed(used) == 17.25 * 2**30
    other = "memory required for HLO temporaries (1.50T) exceeds available HBM (15.75G)."
    assert _needed(other) == 1.5 * 2**40
    assert _needed("INVALID_ARGUMENT: something else") is None


def test_collectives_are_counted_with_the_bytes_of_their_results():
    """A loop of four turns, and what is fused or runs in the background, wherever its text stands."""
    text = """
%turn (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  ROOT %rs = f32[4]{0} reduce-scatter(%d), channel_id=3, to_apply=%add
}
%fused (x: f32[2]) -> f32[2] {
  ROOT %r = f32[2]{0} all-reduce(%x), channel_id=4, to_apply=%add
}
%called_computation (x: bf16[4,128], t: token[]) -> bf16[16,128] {
  ROOT %all-gather.9 = bf16[16,128]{1,0:T(16,128)(2,1)} all-gather(%x), channel_id=6, dimensions={0}
}, execution_thread="sparsecore"
%never_called (x: f32[2]) -> f32[2] {
  ROOT %n = f32[2]{0} all-reduce(%x), channel_id=5, to_apply=%add
}
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %all-reduce.1 = (f32[8,128]{1,0:T(8,128)}, /*index=1*/bf16[64]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  %ag = (bf16[4,128]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%c), channel_id=2
  %agd = bf16[16,128]{1,0} all-gather-done(%ag)
  %sum = f32[8,128]{1,0} add(%all-reduce.1, %all-reduce.1), metadata={op_name="all-reduce(x)"}
  %cs = ((bf16[4,128]{1,0}, token[]), bf16[16,128]{1,0}) call-start(%c, %t), to_apply=%called_computation
  %cd = bf16[16,128]{1,0} call-done(%cs)
  %f = f32[2]{0} fusion(%sum), kind=kCustom, calls=%fused
  ROOT %w = (s32[], f32[4]{0}) while(%t), condition=%c, body=%turn, backend_config={"known_trip_count":{"n":"4"}}
}
"""
    assert read_collectives(text) == {
        "all-reduce": {"count": 2, "mib": (8 * 128 * 4 + 64 * 2 + 2 * 4) / 2**20},
        "all-gather": {"count": 2, "mib": 2 * 16 * 128 * 2 / 2**20},
        "reduce-scatter": {"count": 4, "mib": 4 * 16 / 2**20},
    }
