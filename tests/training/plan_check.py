"""`make plan-check`: whole models compiled for TPU slices, against counts by hand.

It takes many minutes, so it is no part of the suite (pytest does not collect this name). The formulae are those of
test_flops.py.
"""

import json

import pytest
from test_flops import d2, mae, tinymim

from lvit_jax.bin import plan

PLANS = {
    "mae": (mae, "--config=pretrain/mae_tiny.py", "--topology=v5e:4x4"),
    "d2": (d2, "--config=pretrain/d2_tiny.py", "--teacher=vit_base", "--topology=v5e:4x4"),
    "tinymim": (
        tinymim,
        "--config=pretrain/tinymim_base.py",
        "--teacher=vit_large",
        "--topology=v5e:16x16",
        "--config.mesh.fsdp=16",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_whole_model_fits_and_takes_what_the_formulae_say(name, capsys):
    formula, *argv = PLANS[name]
    assert plan.main([*argv, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    with capsys.disabled():
        print("\n" + "\n".join(f"{key:20} {value}" for key, value in plan.lines(figures).items()))
    assert figures["flops_per_image"] == pytest.approx(formula(), rel=0.05)
    assert figures["compiled"] and figures["memory"]["fits"]
    # Element-wise work is in the compiler's count; of the loops that fsdp makes it counts one turn.
    assert figures["compiler_flops_per_image"] < 1.1 * figures["flops_per_image"]
    assert figures["hbm_bytes_per_image"] > 0 and figures["collectives"]["all-reduce"]["count"] > 0
