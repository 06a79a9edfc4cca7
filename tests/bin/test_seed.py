"""Two runs of every method's demo with one seed, teachers trained in both, save the same numbers, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
from saved import saved

from lvit_jax.bin import train

DEMOS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "demo").glob("[!_]*.py"))
STEPS = 3
SHORT = f"""
from importlib import import_module


def get_config():
    config = import_module("lvit_jax.configs.demo.{{name}}").get_config()
    config.train.update({{{{"steps": {STEPS}, "batch_size": 32}}}})
    config.optim.warmup_epochs = 0.0
    config.log.tensorboard = False
    if config.init.demo_teacher:
        config.init.demo_teacher = r"{{folder}}/" + config.init.demo_teacher.split("/")[-1]
    return config
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """A folder of the demo configs, cut to a few steps."""
    folder = tmp_path_factory.mktemp("configs")
    for name in DEMOS:
        (folder / f"{name}.py").write_text(SHORT.format(name=name, folder=folder))
    return folder


def everything(workdir):
    """The checkpoint of a run and of its teacher."""
    places = {"run": workdir, "teacher": workdir / "teacher"}
    return {
        (who, name): value
        for who, place in places.items()
        if place.exists()
        for name, value in saved(place, STEPS).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
def test_the_same_seed_twice(configs, tmp_path, name):
    for workdir in ("one", "two"):
        train.main([f"--config={configs / name}.py", f"--workdir={tmp_path / workdir}"])
    one, two = everything(tmp_path / "one"), everything(tmp_path / "two")
    assert len(one) > 20
    assert one.keys() == two.keys()
    assert [name for name in one if not np.array_equal(one[name], two[name])] == []
