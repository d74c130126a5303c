import pytest

from asr.checkpoints.checkpoint import pack_recipe, write_checkpoint
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.figures.__main__ import main
from asr.figures.curves import read_points, run_names
from asr.model.config import ModelConfig

TRAINING, DEV = [(10, 5.0, 1e-3), (20, 4.0, 9e-4)], [(20, 4.5, 80.0)]


def write_run(folder, dev=DEV):
    curves = {"training": TRAINING, "dev": dev}
    tokenizer = Tokenizer(train_tokenizer(["THE CAT SAT ON A DOG"], 16))
    recipe = pack_recipe(ModelConfig("mala"), tokenizer)
    content = {"recipe": recipe, "state_dict": {}, "global_step": 20, "training": {}}
    (folder / "checkpoints").mkdir(parents=True)
    write_checkpoint(content | {"callbacks": {"Curves": curves}}, folder / "checkpoints" / "last.ckpt")
    return folder


def test_runs_in_one_picture(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("exp/a", "exp/b")]
    main(["curves", *map(str, runs), "--out", str(tmp_path / "both.png")])
    main(["curves", str(runs[0]), "--out", str(tmp_path / "one.png")])
    both, one = ((tmp_path / f"{name}.png").read_bytes() for name in ("both", "one"))
    assert both.startswith(b"\x89PNG") and one.startswith(b"\x89PNG") and both != one


def test_points_are_those_of_the_last_checkpoint(tmp_path):
    run = write_run(tmp_path / "run")
    assert read_points(run) == read_points(run / "checkpoints" / "last.ckpt") == (TRAINING, DEV)


def test_names_are_what_differs(tmp_path):
    assert run_names([tmp_path / "exp/a/1", tmp_path / "exp/b/1"]) == ["a/1", "b/1"]
    with pytest.raises(UserError, match="twice"):
        run_names([tmp_path, tmp_path])


def test_a_run_without_points_is_refused(tmp_path):
    run = write_run(tmp_path / "run", dev=[])
    for path, message in ((run, "first validation"), (tmp_path / "no", "no such checkpoint")):
        with pytest.raises(UserError, match=message):
            main(["curves", str(path), "--out", str(tmp_path / "a.png")])
    assert not (tmp_path / "a.png").exists()
