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
