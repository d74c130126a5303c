"""Arrays kept beside a language model are those that were made, or none."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from asr.decoding.lexicon_cache import kept

ARRAYS = {"first": np.arange(7), "best": np.array([0.5, -np.inf, np.nan]), "empty": np.zeros(0, np.int64)}


class Maker:
    """Makes arrays, and counts how often."""

    def __init__(self, arrays=ARRAYS):
        self.arrays, self.count = arrays, 0

    def __call__(self):
        self.count += 1
        return self.arrays


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "lm" / "3gram.bin"
    path.parent.mkdir()
    path.write_bytes(b"a language model")
    return path


def the_file(model: Path) -> Path:
    [path] = model.parent.glob("*.lexicon")
    return path


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.dictionaries(
        st.text(max_size=5),
        st_numpy.arrays(
            st.sampled_from([np.int64, np.float64, np.int32, np.uint8, np.bool_]),
            st_numpy.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9),
        ),
    )
)
def test_they_come_back_as_they_were(model, arrays):
    for path in model.parent.glob("*.lexicon"):
        path.unlink()
    make = Maker(arrays)
    for _ in range(2):
        found = kept(model, "abc", [b"code"], make)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and type(found[name]) is np.ndarray
            np.testing.assert_array_equal(found[name], array)
            # Numba compiles anew for arrays of another kind.
            assert (
                found[name].flags.writeable and found[name].flags.aligned and found[name].flags.c_contiguous
            )
    assert make.count == 1


def test_each_tokenizer_has_its_own(model):
    make = Maker()
    for tokenizer in ("abc", "def", "abc", "def"):
        kept(model, tokenizer, [b"code"], make)
    assert make.count == 2


def change_in_place(model: Path) -> None:
    before = model.stat()
    model.write_bytes(b"A language model")  # as long as it was
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(model: Path) -> None:
    model.with_name("new").write_bytes(b"A language model")
    model.with_name("new").replace(model)


@pytest.mark.parametrize("change", [change_in_place, replace])
def test_another_model_makes_them_void(model, change):
    make = Maker()
    kept(model, "abc", [b"code"], make)
    change(model)
    kept(model, "abc", [b"code"], make)
    assert make.count == 2


def test_another_version_of_the_code_makes_them_void(model):
    make = Maker()
    kept(model, "abc", [b"version 1"], make)
    kept(model, "abc", [b"version 2"], make)
    assert make.count == 2


def test_those_that_came_from_elsewhere_are_not_used(model, tmp_path):
    make = Maker()
    kept(model, "abc", [b"code"], make)
    shutil.copytree(model.parent, tmp_path / "copy", copy_function=shutil.copy2)
    kept(tmp_path / "copy" / model.name, "abc", [b"code"], make)
    assert make.count == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a folder", "nonsense", "another kind"])
def test_damaged_ones_are_made_again(model, damage):
    make = Maker()
    kept(model, "abc", [b"code"], make)
    path = the_file(model)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    changed = {
        "cut": content[: len(content) // 2],
        "flipped": content,
        "nonsense": b"\xff\n" + bytes(100),
        "another kind": path.read_bytes().replace(b"<i8", b"|O8", 1),
    }
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(changed.get(damage, b""))
    found = kept(model, "abc", [b"code"], make)
    assert make.count == 2
    np.testing.assert_array_equal(found["first"], ARRAYS["first"])


def test_writing_to_them_changes_no_file(model):
    kept(model, "abc", [b"code"], Maker())
    kept(model, "abc", [b"code"], Maker())["first"][:] = 9
    np.testing.assert_array_equal(kept(model, "abc", [b"code"], Maker())["first"], ARRAYS["first"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_no_error(model):
    model.parent.chmod(0o500)
    np.testing.assert_array_equal(kept(model, "abc", [b"code"], Maker())["first"], ARRAYS["first"])
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_a_full_disk_is_no_error(model, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.files.os.fsync", full)
    np.testing.assert_array_equal(kept(model, "abc", [b"code"], Maker())["first"], ARRAYS["first"])
    assert [path.name for path in model.parent.iterdir()] == [model.name]
