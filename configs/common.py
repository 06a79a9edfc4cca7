"""The fields that every config has. A section is the keyword arguments of one function, named beside it."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base() -> ConfigDict:
    """Every section but `objective`, with the values that most configs share."""
    return ConfigDict(
        dict(
            seed=0,
            model=dict(  # models.vit.vit; image_size goes to the data as well
                name="vit_tiny",
                image_size=224,
                patch_size=16,
                channels=3,
                heads=placeholder(int),  # None: the size's own; DeiT's are 3 for tiny and 6 for small
                positions="sincos",
                drop_path=0.0,
                remat=False,
                dtype="bfloat16",
            ),
            data=dict(  # build.load_data
                source="imagenet2012",
                train_split="train",
                val_split="validation",
                data_dir=placeholder(str),
                holdout=0.1,  # share split off where there is no validation split
                examples=placeholder(int),  # train on a stratified subset of so many
                mean="imagenet",
                max_broken=0.1,
                resample="exact",
            ),
            augment=dict(  # data.recipes
                recipe="mae",
            ),
            optim=dict(  # training.optim.make_tx
                name="adamw",
                blr=1.5e-4,  # per 256 images
            ),
            train=dict(epochs=400.0, steps=placeholder(int), batch_size=4096, accumulate=1),
            mesh=dict(devices=placeholder(int)),
            init=dict(
                encoder=placeholder(str),  # the workdir of a run or of an import
                teacher=placeholder(str),
                heads_from=placeholder(int),
                fresh=(),
                dropped=(),
            ),
            checkpoint=dict(every_steps=1000, keep=3),
            log=dict(every_steps=50, tensorboard=True),
            eval=dict(every_epochs=10.0, batch_size=512),
        )
    )
