"""Tiny stand-ins for ImageNet's benchmarks, prepared by the builders of tfds and of ours, and a classifier for them."""

import importlib
import io
import tarfile

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from lvit_jax.bin import flags
from lvit_jax.build.parts import make_objective, shapes
from lvit_jax.data import imagenet
from lvit_jax.data.prepared import open_builder
from lvit_jax.data.sources import open_source
from lvit_jax.training.checkpoint import save_params
from lvit_jax.training.record import write_record

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


def jpeg(seed, size=(224, 224)):
    """The bytes of a smooth random picture: large areas of strong colours, so that random weights tell them apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(file, format="JPEG", quality=90)
    return file.getvalue()


def png(seed, side):
    """The bytes of a small random picture."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, format="PNG")
    return file.getvalue()


def folder(root):
    """A folder of class folders as a source."""
    return open_source(f"folder:{root}", "train")


def make_classifier(workdir, classes, image_size=224, names=True, head=1.0):
    """An import with random weights: one block of width 32, patches of a seventh of the image."""
    settings = {"name": "vit_micro", "image_size": image_size, "patch_size": image_size // 7, "channels": 3, "depth": 1}
    settings |= {"width": 32, "heads": 2, "dtype": "float32"}
    config = flags.load_config("demo/finetune")
    overrides = [f"--config.model.{key}={value}" for key, value in settings.items()]
    config = flags.check(flags.override(config, overrides)).to_dict()
    params = shapes(make_objective(config, tuple(classes), learns=False), config).params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)
    save_params(workdir, params)
    model = {key: config[key] for key in ("model", "objective")}
    write_record(
        workdir, {"kind": "import", "config": model, "data": HALF | {"classes": list(classes) if names else None}}
    )
    return workdir


def prepare(name, config, data_dir, splits):
    """Prepares a data set of tfds with its own features; splits: name -> function of its builder -> its examples."""
    module = f"tensorflow_datasets.datasets.{name}.{name}_dataset_builder"
    builder = importlib.import_module(module).Builder(config=config, data_dir=data_dir, file_format="array_record")
    builder._split_generators = lambda dl_manager: {split: make(builder) for split, make in splits.items()}
    tfds.disable_progress_bar()
    builder.download_and_prepare()


def prepare_real(data_dir, images, sets):
    """ReaL: images in the order of their file names, and the labels of each."""
    names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(len(images))]
    original, real = dict.fromkeys(names, imagenet.wnids()[0]), dict(zip(names, sets, strict=True))

    def examples(builder):
        files = [(name, io.BytesIO(data)) for name, data in zip(names, images, strict=True)]
        return builder._generate_examples(files, original, real)

    prepare("imagenet2012_real", None, str(data_dir), {"validation": examples})


def write_tree(root, examples):
    """examples: [(class folder, file name, bytes)]."""
    for folder, name, data in examples:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(data)
    return root


def write_archive(path, cells, examples):
    """A published archive of ImageNet-C: cells [(corruption, severity)]; examples(cell) -> [(wnid, name, bytes)]."""
    with tarfile.open(path, "w") as archive:
        for corruption, severity in cells:
            for wnid, name, data in examples((corruption, severity)):
                info = tarfile.TarInfo(f"{corruption}/{severity}/{wnid}/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def all_wnids():
    return imagenet.wnids()


def prepare_c(config, data_dir):
    """Without tfds' bars of progress."""
    tfds.disable_progress_bar()
    open_builder(f"imagenet_c/{config}", str(data_dir))


def decoded(data):
    """uint8 [H,W,3], by PIL."""
    return np.asarray(Image.open(io.BytesIO(data)))


def pixels(data):
    """An image file as a model with HALF's statistics sees it, without resize and crop: float32 [H,W,3]."""
    return (decoded(data).astype(np.float32) / 255 - 0.5) / 0.5


def logits(trained, images):
    """Logits [N,C] of normalised images, one image at a time."""
    return np.concatenate(
        [trained.objective.predict(trained.params, trained.state, {"image": one[None]})["logits"] for one in images]
    )
