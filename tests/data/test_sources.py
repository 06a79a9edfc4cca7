"""Sources by name: layouts of folders, hold-out and limits, and the one line that each mistake gets."""

import numpy as np
import pytest
from conftest import save_image

from lvit_jax.data.folders import open_folder
from lvit_jax.data.sources import as_statistics, make_recipe, open_data, open_source, open_splits
from lvit_jax.errors import InputError


def opened(root, **fields):
    return open_data(source=f"folder:{root}", image_size=16, **fields)


@pytest.fixture(scope="module")
def with_splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for name in ("dog", "cat"):
            for i in range(count):
                save_image(root / split / name / "images" / f"{split}{i}.JPEG", i)  # nested, as Tiny ImageNet
    return root


def test_class_folders(folder):
    source = open_folder(str(folder), "train")
    assert source.classes == ("ant", "bee", "cat") and source.size == 40
    assert np.bincount(source.labels).tolist() == [20, 10, 10]
    assert source.ids()[20] == "bee/00.jpg"
    data, label = source.load(np.int64(20))
    assert data.numpy() == (folder / "bee/00.jpg").read_bytes() and label.numpy() == 1


def test_split_folders(with_splits):
    data = opened(with_splits, labels=True)
    assert (data.train.size, data.val.size, data.held_out) == (8, 4, [])
    assert data.train.classes == data.val.classes == ("cat", "dog")
    assert data.val.split == "validation"
    assert open_source(f"folder:{with_splits}", "val").size == open_source(f"folder:{with_splits}", "validation").size
    assert opened(with_splits, val_split="test").val.size == 2


def test_a_tree_without_labels(tmp_path):
    for name in ("a.jpg", "deep/er/b.PNG", "deep/c.webp"):
        save_image(tmp_path / name, 0)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("no image")
    data = opened(tmp_path, holdout=0.34)
    assert data.train.size == 2 and data.val.size == 1 and data.train.classes is None and data.train.labels is None
    with pytest.raises(InputError, match=r"labels are needed, but 'a\.jpg'"):
        opened(tmp_path, labels=True)


def test_holdout_is_stratified_disjoint_and_the_same_for_all_runs(folder):
    data = opened(folder, holdout=0.2)
    assert np.bincount(data.val.labels).tolist() == [4, 2, 2]
    assert not set(data.train.rows) & set(data.val.rows) and data.train.size + data.val.size == 40
    assert data.held_out == data.val.ids()
    again = opened(folder, holdout=0.2, recipe="finetune", limit=8, limit_seed=3)
    assert again.held_out == data.held_out
    assert np.bincount(again.train.labels).tolist() == [4, 2, 2] and set(again.train.rows) <= set(data.train.rows)
    assert opened(folder, holdout=0.2, limit=8, limit_seed=4).train.ids() != again.train.ids()
    assert opened(folder, holdout=0.2, split_seed=1).held_out != data.held_out
    assert opened(folder, holdout=0.0).val is None and opened(folder, val_split=None).val is None


def test_few_labels_are_as_many_of_every_class_seeded_and_nested(folder):
    few = opened(folder, holdout=0.2, labels_per_class=3)
    assert np.bincount(few.train.labels).tolist() == [3, 3, 3] and few.labelled == few.train.ids()
    assert not set(few.labelled) & set(few.held_out) and len(few.held_out) == 8
    assert opened(folder, holdout=0.2, labels_per_class=3).record == few.record
    more = opened(folder, holdout=0.2, labels_per_class=8).labelled
    assert set(few.labelled) < set(more) and len(more) == 24
    assert opened(folder, holdout=0.2, labels_per_class=3, limit_seed=1).labelled != few.labelled
    assert opened(folder, limit=9).labelled == [] and opened(folder).labelled == []


def test_few_labels_need_labels(tmp_path):
    save_image(tmp_path / "a.jpg", 0)
    with pytest.raises(InputError, match=r"labels_per_class=1, but folder:.* has no labels"):
        opened(tmp_path, labels_per_class=1)


def test_tuning_takes_from_the_training_images_alone(with_splits, folder):
    """Whatever else is validated on, and however few images train: settings are chosen on some of these."""
    data = opened(with_splits, tune=0.25)
    names = set(open_folder(str(with_splits), "train").ids())
    assert set(data.held_out) | set(data.train.ids()) == names and data.val.ids() == data.held_out
    assert (data.train.size, data.val.size, data.val.split) == (6, 2, "tune")
    assert np.bincount(data.val.labels).tolist() == [1, 1]
    assert opened(with_splits, tune=0.25, val_split="test").held_out == data.held_out
    without = opened(folder, holdout=0.2, labels_per_class=4)
    tuned = opened(folder, holdout=0.2, labels_per_class=4, tune=0.25)
    assert set(tuned.held_out) | set(tuned.train.ids()) == set(without.labelled) == set(tuned.labelled)
    assert np.bincount(tuned.train.labels).tolist() == [3, 3, 3] and len(tuned.held_out) == 3
    assert opened(folder, holdout=0.2, labels_per_class=4, tune=0.25, split_seed=1).held_out != tuned.held_out


def test_what_trains_does_not_validate(digits_dir):
    fields = {"source": "digits", "data_dir": digits_dir, "image_size": 8, "channels": 1, "statistics": "digits"}
    with pytest.raises(InputError, match=r"val_split='validation' is part of data.train_split='train\+validation'"):
        open_data(**fields, train_split="train+validation")
    assert open_data(**fields, train_split="train+validation[:50%]", val_split="validation[50%:]").val.size == 180


def test_record_tells_what_was_opened(folder):
    record = opened(folder).record
    assert record["classes"] == ["ant", "bee", "cat"] and (record["size"], record["val_size"]) == (36, 4)
    assert (
        record["fingerprint"] == opened(folder).record["fingerprint"] != opened(folder, limit=9).record["fingerprint"]
    )


def test_classes_of_a_model_number_the_labels_of_another_folder(folder):
    source = open_folder(str(folder), "train", classes=("cat", "bee", "ant", "dog"))
    assert np.bincount(source.labels).tolist() == [10, 10, 20] and len(source.classes) == 4
    with pytest.raises(InputError, match=r"unknown class folder in .* 'bee'.*did you mean 'bees'"):
        open_folder(str(folder), "train", classes=("ant", "bees", "cat"))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"source": "folder:{}x"}, "no folder .*did you mean '{}'"),
        ({"source": "folder:{}/empty"}, "no images .* in folder"),
        ({"source": "folder:{}/ant/00.jpg"}, "cannot read folder .*Not a directory"),
        ({"source": "{}"}, "write folder:{}"),
        ({"source": "foldr:{}"}, "did you mean 'folder:{}'"),
        ({"train_split": "trian"}, "unknown split .*'trian'.*did you mean 'train'"),
        ({"val_split": "tset"}, "unknown split .*'tset'.*valid: train"),
        ({"recipe": "finetun"}, "unknown data.recipe 'finetun'.*did you mean 'finetune'"),
        ({"erase": 0.1}, "recipe 'mae' has no field data.erase"),
        ({"statistics": "imagnet"}, "did you mean 'imagenet'"),
        ({"statistics": "digits", "channels": 3, "limit": 41}, "data.limit=41 .* between 1 and 36"),
        ({"labels_per_class": 10}, "not between 1 and 9: class 'bee' of folder:.* has 9 training images"),
        ({"labels_per_class": 0}, "data.labels_per_class=0 is not between 1 and 9"),
        ({"labels_per_class": 2, "limit": 8}, "data.limit=8 and data.labels_per_class=2 exclude each other"),
        ({"tune": 1.0}, "data.tune=1.0 of 36 training images"),
        ({"tune": 0.001}, "data.tune=0.001 of 36 training images leaves none"),
        ({"holdout": 1.5}, "data.holdout=1.5"),
        ({"interpolation": "nearest"}, "unknown data.interpolation 'nearest'"),
        ({"resample": "fats"}, "did you mean 'fast'"),
        ({"crop_scale": (0.5, 0.2)}, "data.crop_scale"),
        ({"recipe": "finetune", "randaugment": "rand-m9"}, "data.randaugment='rand-m9'"),
    ],
)
def test_mistakes_get_one_line(folder, fields, line):
    (folder / "empty").mkdir(exist_ok=True)
    fields = {"source": "folder:{}"} | fields
    fields["source"] = fields["source"].format(folder)
    with pytest.raises(InputError, match=line.format(folder)) as error:
        open_data(image_size=16, **fields)
    assert "\n" not in str(error.value)


def test_statistics():
    assert as_statistics("half", 3) == ((0.5,) * 3, (0.5,) * 3)
    assert as_statistics(((0.1,), (0.2,)), 1) == ((0.1,), (0.2,))
    with pytest.raises(InputError, match="for 3 channels, the model has 1"):
        as_statistics("imagenet", 1)


def test_recipes_know_their_fields():
    fields = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert make_recipe("finetune", fields | {"randaugment": "rand-m9-mstd0.5-inc1", "erase": 0.25})
    with pytest.raises(InputError, match=r"data\.randaugmnt \(did you mean 'randaugment'\?\)"):
        make_recipe("finetune", fields | {"randaugmnt": None})


def test_a_class_called_test_is_no_split(tmp_path):
    for name in ("bench", "test"):
        save_image(tmp_path / name / "a.jpg", 0)
    source, _, _ = open_splits(f"folder:{tmp_path}", holdout=0.0)
    assert source.classes == ("bench", "test")
