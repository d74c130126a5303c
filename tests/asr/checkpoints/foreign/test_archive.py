"""Archives that were made to harm: an error that names the file, no memory taken, nothing run or written."""

import gzip
import io
import os
import tarfile
import tracemalloc
import zipfile

import pytest
import torch
from plain_nemo import TOKENIZER, add_member, make_config, make_weights, write_nemo

from asr.checkpoints.foreign.archive import read_archive, read_tensors
from asr.checkpoints.foreign.importing import import_model
from asr.errors import UserError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    config = make_config()
    return write_nemo(tmp_path_factory.mktemp("good") / "good.nemo", config, make_weights(config))


def refused(path, message):
    """Refused in one line, in little memory, and no trace is left beside it."""
    before = sorted(path.parent.iterdir())
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as error:
            import_model(path, path.parent / "ours")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert sorted(path.parent.iterdir()) == before


def with_member(good, path, name, data=b"", mode="w", **fields):
    """The good archive with one more member."""
    with tarfile.open(good) as old, tarfile.open(path, mode) as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        add_member(new, name, data, **fields)
    return path


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("../escaped", {}, "a path out of it"),
        ("/tmp/escaped", {}, "a path out of it"),
        ("a/../../escaped", {}, "a path out of it"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link"),
        ("link", {"type": tarfile.LNKTYPE, "linkname": "model_config.yaml"}, "a link"),
        ("device", {"type": tarfile.CHRTYPE}, "neither a file nor a folder"),
        ("pipe", {"type": tarfile.FIFOTYPE}, "neither a file nor a folder"),
        ("huge", {"size": 1 << 40}, "more than it can honestly hold"),
        ("model_config.yaml", {}, "holds model_config.yaml twice"),
    ],
)
def test_members_that_no_model_has(name, fields, message, good, tmp_path):
    path = tmp_path / "bad.nemo"
    fields = dict(fields)
    size = fields.pop("size", None)
    if size is None:
        with_member(good, path, name, **fields)
    else:  # a header alone, which tarfile would not write
        member = tarfile.TarInfo(name)
        member.size = size
        path.write_bytes(member.tobuf() + good.read_bytes())
    refused(path, message)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    """A gigabyte of zeros in a megabyte."""
    path = tmp_path / "bomb.nemo"
    with gzip.open(path, "wb", compresslevel=1) as file:
        member = tarfile.TarInfo("model_weights.ckpt")
        member.size = 1 << 30
        file.write(member.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    refused(path, "more than it can honestly hold")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_header_is_refused(kind, tmp_path):
    """tarfile reads such a member whole to find the next one's name in it."""
    path = tmp_path / "bomb.nemo"
    with gzip.open(path, "wb", compresslevel=1) as file:
        member = tarfile.TarInfo("header")
        member.type, member.size = kind, 1 << 30
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(128):
            file.write(bytes(1 << 20))
    refused(path, "not a .nemo file")


def test_many_members(tmp_path):
    path = tmp_path / "many.nemo"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(1_100):
            add_member(archive, f"{number}")
    refused(path, "one of more than 1000 members")


class Boom:
    """Unpickling this makes a folder: a stand-in for any code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_the_weights_is_not_run(tmp_path):
    path = write_nemo(tmp_path / "evil.nemo", make_config(), {"x": Boom(tmp_path / "trace")})
    refused(path, "holds more than tensors; not loaded")


def test_code_in_the_configuration_is_not_run(tmp_path):
    path = tmp_path / "evil.nemo"
    content = io.BytesIO()
    torch.save({}, content)
    with tarfile.open(path, "w") as archive:
        yaml = f"target: !!python/object/apply:os.mkdir ['{tmp_path}/trace']\n"
        add_member(archive, "model_config.yaml", yaml.encode())
        add_member(archive, "model_weights.ckpt", content.getvalue())
        add_member(archive, "0_tokenizer.model", TOKENIZER)
    refused(path, "not YAML of plain values")


def test_a_few_bytes_of_yaml_are_no_gigabytes(tmp_path):
    path = tmp_path / "large.nemo"
    lists = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    with tarfile.open(path, "w") as archive:
        add_member(archive, "model_config.yaml", f"a0: &a0 x\n{lists}tokenizer: {{type: *a29}}\n".encode())
        add_member(archive, "model_weights.ckpt", b"")
        add_member(archive, "0_tokenizer.model", TOKENIZER)
    refused(path, "not YAML of plain values")


def test_compressed_weights_are_refused():
    """PyTorch stores; a record of a few bytes could become gigabytes."""
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert "x" in read_tensors(plain.getvalue(), "plain")
    with pytest.raises(UserError, match="has compressed records"):
        read_tensors(packed.getvalue(), "packed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": {"y": 1}}, "not a model's weights"),
        ([torch.zeros(1)], "not a model's weights"),
        ({"x": torch.zeros(1).expand(10**13)}, "its weights are larger than the file"),
    ],
)
def test_what_is_no_set_of_weights(content, message):
    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(UserError, match=message):
        read_tensors(file.getvalue(), "it")


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_cut_short_are_refused(share, compressed, good, tmp_path):
    data = gzip.compress(good.read_bytes()) if compressed else good.read_bytes()
    path = tmp_path / "cut.nemo"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"cut\.nemo"):
        import_model(path, tmp_path / "ours")


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000, b"\x1f\x8b nonsense", b"PK\x03\x04"])
def test_other_files_are_told_apart(content, tmp_path):
    path = tmp_path / "other.nemo"
    path.write_bytes(content)
    refused(path, "not a .nemo file")


def test_a_missing_part_is_named(tmp_path):
    path = tmp_path / "half.nemo"
    with tarfile.open(path, "w") as archive:
        add_member(archive, "model_config.yaml", b"target: x\n")
    refused(path, "it holds no model_weights.ckpt")
    with pytest.raises(UserError, match="no such file or folder"):
        import_model(tmp_path / "absent.nemo", tmp_path / "ours")


def test_a_good_archive_is_read(good):
    archive = read_archive(good)
    assert archive.tokenizer == TOKENIZER and b"EncDecCTCModelBPE" in archive.config
