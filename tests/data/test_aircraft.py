"""FGVC-Aircraft from an archive in the published layout, made here."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lvit_jax.data.image import decode
from lvit_jax.data.prepared import prepare
from lvit_jax.data.records import open_tfds, split_names
from lvit_jax.errors import InputError

# As in the archive: a listing of every variant, in which names have spaces, slashes and leading digits.
VARIANTS = ("707-320", "A300B4", "Beechcraft 1900", "F/A-18")
HIGH, WIDE, BANNER = 60, 48, 20


def picture(number):
    """A smooth picture above a banner of checks, as a JPEG file."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    pixels = np.asarray(small.resize((WIDE, HIGH), Image.Resampling.BICUBIC)).copy()
    pixels[-BANNER:] = 255 * (np.indices((BANNER, WIDE)).sum(axis=0) % 2)[..., None]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A data_dir with the archive in its place: image n shows variant n % 4; files by name, listings by split."""
    data_dir = tmp_path_factory.mktemp("aircraft")
    listed = {"train": range(8), "val": range(8, 16), "trainval": range(16), "test": range(16, 20)}
    lines = {name: [f"{1000000 + n} {VARIANTS[n % 4]}" for n in numbers] for name, numbers in listed.items()}
    files = {f"images_variant_{name}.txt": "\n".join(rows).encode() + b"\n" for name, rows in lines.items()}
    files["variants.txt"] = "\n".join(VARIANTS).encode() + b"\n"
    files |= {f"images/{1000000 + n}.jpg": picture(n) for n in range(20)}
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True)
    with tarfile.open(manual / "fgvc-aircraft-2013b.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"fgvc-aircraft-2013b/data/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data_dir, files, lines


def examples(source):
    """(decoded pixels, class name) of every example."""
    for row in source.rows:
        data, label = source.load(np.int64(row))
        yield decode(data, 3).numpy().astype(np.float32), source.classes[int(label)]


@pytest.mark.parametrize(
    ("split", "listing"), [("train", "train"), ("validation", "val"), ("trainval", "trainval"), ("test", "test")]
)
def test_every_split_has_its_images_and_variants_without_the_banner(archive, split, listing):
    data_dir, files, lines = archive
    source = open_tfds("fgvc_aircraft", split, str(data_dir))
    assert source.classes == VARIANTS and source.size == len(lines[listing])
    expected = dict(line.split(" ", 1) for line in lines[listing])
    originals = {name: decode(files[f"images/{name}.jpg"], 3).numpy().astype(np.float32) for name in expected}
    found = {}
    for pixels, variant in examples(source):
        assert pixels.shape == (HIGH - BANNER, WIDE, 3)
        # The row that shared a block of chroma with the banner is none of the picture's.
        near = {name: np.abs(pixels[:-4] - other[: len(pixels) - 4]).mean() for name, other in originals.items()}
        name = min(near, key=near.get)
        assert near[name] < 1, "stored as JPEG again, within a grey level"
        found[name] = variant
    assert found == expected


def test_it_is_prepared_once_and_needs_the_archive_no_more(archive, tmp_path):
    data_dir, _, _ = archive
    first = open_tfds("fgvc_aircraft", "test", str(data_dir))
    manual = data_dir / "downloads" / "manual"
    manual.rename(tmp_path / "gone")
    again = open_tfds("fgvc_aircraft", "test", str(data_dir))
    (tmp_path / "gone").rename(manual)
    assert again.classes == VARIANTS and again.fingerprint == first.fingerprint
    assert split_names("fgvc_aircraft", str(data_dir)) == ["test", "train", "trainval", "validation"]


def test_without_its_archive_it_says_what_goes_where(tmp_path):
    with pytest.raises(InputError, match=r"fgvc_aircraft.*fgvc-aircraft-2013b\.tar\.gz.*downloads/manual") as error:
        open_tfds("fgvc_aircraft", "train", str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="did you mean 'fgvc_aircraft'"):
        open_tfds("fgvc_aircrft", "train", str(tmp_path))


def test_a_broken_archive_is_one_line(tmp_path):
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    (tmp_path / "downloads" / "manual" / "fgvc-aircraft-2013b.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"cannot prepare fgvc_aircraft.*fgvc-aircraft-2013b\.tar\.gz") as error:
        open_tfds("fgvc_aircraft", "train", str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fgvc_aircraft", r"put fgvc-aircraft-2013b.tar.gz \(from www.robots.ox.ac.uk/.*\) into .*downloads/manual"),
        ("imagenet_c", "prepared in parts; name one: imagenet_c/noise, imagenet_c/"),
        ("imagenet_c/noise", r"put noise.tar \(from zenodo.org"),
        ("folder:/my/images", "needs no preparing"),
    ],
)
def test_prepare_says_what_is_missing(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        prepare(name, str(tmp_path))
