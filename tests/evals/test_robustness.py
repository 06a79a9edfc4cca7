"""Counts and corruption errors against direct numpy and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.errors import InputError
from lvit_jax.evals.benchmarks import CORRUPTIONS, SEVERITIES
from lvit_jax.evals.mapping import read_mapping
from lvit_jax.evals.robustness import corruption_figures, make_count, mean_corruption_error
from lvit_jax.types import Objective

ALL = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


def test_mce_by_hand():
    """Errors of 50 %, but fog's 10 to 50 and jpeg's 20: CE = sum of errors / (5 * AlexNet's mean)."""
    errors = dict.fromkeys(ALL, 50.0)
    errors |= {("fog", s): 10.0 * s for s in SEVERITIES} | {("jpeg_compression", s): 20.0 for s in SEVERITIES}
    figures = mean_corruption_error(errors)
    # 1.5 / (5 * 0.819324), 1.0 / (5 * 0.606500), 2.5 / (5 * 0.886428)
    hand = {"fog": 36.6155514, "jpeg_compression": 32.9760923, "gaussian_noise": 56.4061605}
    for name, value in hand.items():
        assert figures["CE"][name] == pytest.approx(value, abs=1e-6)
    # The thirteen others' 50/AlexNet add up to 826.6224452.
    assert figures["mCE"] == pytest.approx((826.6224452 + 36.6155514 + 32.9760923) / 15, abs=1e-6)
    assert corruption_figures(errors)["mean_error"] == pytest.approx((13 * 50 + 30 + 20) / 15)


def test_alexnet_itself_has_an_mce_of_100():
    errors = {(name, s): 100 * CORRUPTIONS[name].alexnet for name, s in ALL}
    assert mean_corruption_error(errors)["mCE"] == pytest.approx(100)
    assert corruption_figures(errors)["mean_error"] == pytest.approx(79, abs=0.5)  # recipes: 0.79


def test_without_all_seventy_five_there_is_no_mce():
    errors = {cell: 40.0 for cell in ALL if cell[0] != "snow" and cell != ("fog", 3)}
    assert mean_corruption_error(errors) == {"mCE": None, "missing": ["snow", "fog 3"]}
    figures = corruption_figures(errors)
    assert figures["mean_error"] == 40 and "3" not in figures["errors"]["fog"] and "snow" not in figures["errors"]


def direct(logits, label, mask, answers, allowed):
    """The definition, row by row, in float64: {'right', 'examples', 'unlabelled'}."""
    counts = {"right": 0, "examples": 0, "unlabelled": 0}
    for row, number, there in zip(logits.astype(np.float64), label, mask, strict=True):
        right = {a for a in answers[number] if a >= 0 and allowed[a]}
        others = [row[c] for c in np.flatnonzero(allowed) if c not in right]
        if there:
            counts["examples" if right else "unlabelled"] += 1
            counts["right"] += bool(right) and max(row[a] for a in right) > max(others)
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_the_definition(seed):
    """Few distinct logits, so that there are ties; sets of 0 to 3 answers; a third of the outputs is not allowed."""
    rng = np.random.default_rng(seed)
    batch = {"image": rng.integers(0, 9, (200, 12)).astype(np.float32), "label": rng.integers(0, 30, 200)}
    batch |= {"mask": (rng.random(200) < 0.9).astype(np.float32)}
    answers, allowed = rng.integers(0, 12, (30, 3)), rng.random(12) < 0.7
    answers = np.where(rng.random((30, 3)) < 0.4, -1, answers).astype(np.int32)
    objective = Objective(None, None, lambda params, state, batch: {"logits": batch["image"]})
    counts = make_count(objective)({}, None, jax.tree.map(jnp.asarray, batch), jnp.asarray(answers), allowed)
    expected = direct(batch["image"], batch["label"], batch["mask"], answers, allowed)
    assert {name: int(value) for name, value in counts.items()} == expected
    assert min(expected.values()) > 0 and expected["right"] < expected["examples"]


def test_a_mapping_is_read(tmp_path):
    path = tmp_path / "mapping.json"
    path.write_text('{"folders": {"rain/light": ["rain", 1], "dust": ["dust", 12]}, "classes": {"dogs": "dog"}}')
    assert read_mapping(str(path)) == ({"rain/light": ("rain", 1), "dust": ("dust", 12)}, {"dogs": "dog"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rain: 1", ["not JSON", "line 1"]),
        ("[]", ["must hold", "folders"]),
        ('{"folders": {}}', ["must hold", "folders"]),
        ('{"folders": {"a": ["rain", 1]}, "clases": {}}', ["clases", "classes"]),
        ('{"folders": {"a": ["rain"]}}', ["'a'", "['rain']"]),
        ('{"folders": {"a": ["rain", "1"]}}', ["'a'", "SEVERITY"]),
        ('{"folders": {"a": ["rain", 0]}}', ["'a'", "from 1"]),
        ('{"folders": {"a": ["rain", true]}}', ["'a'"]),
        ('{"folders": {"a": ["rain", 1], "b": ["rain", 1]}}', ["'a'", "'b'", "rain 1"]),
        ('{"folders": {"a": ["rain", 1], "a": ["rain", 2]}}', ["'a'", "twice"]),
        ('{"folders": {"a": ["rain", 1]}, "classes": {"x": 3}}', ["'x'", "3"]),
        ('{"folders": {"a": ["rain", 1]}, "classes": []}', ["classes"]),
    ],
)
def test_a_bad_mapping_is_one_line(tmp_path, text, words):
    path = tmp_path / "mapping.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_mapping(str(path))
    assert all(word in str(error.value) for word in [*words, str(path)]) and "\n" not in str(error.value)


def test_a_mapping_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot read --mapping=.*nowhere"):
        read_mapping(str(tmp_path / "nowhere.json"))
