import re

import pytest
import yaml

from asr.attention import ATTENTIONS
from asr.errors import UserError
from asr.model.config import ModelConfig, model_from_dict, model_to_dict
from asr.training.config import dump_config, parse_config


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_mechanism_is_one_flag_away(attention):
    config = parse_config(["--out", "x", "--attention", attention])
    assert config.model.attention == attention
    assert isinstance(config.model.options[attention], ATTENTIONS[attention].Options)


def test_a_mechanisms_options_are_nested_under_its_name():
    config = parse_config(["--out", "x", "--attention", "mala", "--mala.form", "eq13"])
    assert config.model.options["mala"].form == "eq13"


def test_command_line_beats_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("attention: linear\ntraining: {steps: 7, seconds: 30}\n")
    config = parse_config(["--config", str(path), "--out", "x", "--training.steps", "9"])
    assert (config.model.attention, config.training.steps, config.training.seconds) == ("linear", 9, 30.0)


@pytest.mark.parametrize("option", [["--out", "new"], ["--attention=softmax"]])
def test_a_file_behind_does_not_replace_what_run_it_is(tmp_path, option):
    path = tmp_path / "config.yaml"
    path.write_text("out: old\nattention: linear\n")
    with pytest.raises(
        UserError, match=rf"^{option[0].partition('=')[0]} .*: --config .* behind it says (old|linear)"
    ):
        parse_config([*option, "--config", str(path)])
    assert (
        parse_config([*option, "--config", str(path), "--out=new", "--attention", "mala"]).out.name == "new"
    )


def test_a_dumped_configuration_reads_back(tmp_path):
    config = parse_config(
        ["--out", "x", "--attention", "mala", "--mala.form", "released", "--encoder.dim", "8"]
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert parse_config(["--config", str(path)]) == config


def test_a_list_of_mechanisms_has_the_options_of_each(tmp_path):
    arguments = ["--attention", "mala,mala,softmax", "--mala.lepe", "5", "--softmax.unit_query", "true"]
    config = parse_config(["--out", "x", *arguments])
    assert list(config.model.options) == ["mala", "softmax"]
    assert config.model.options["mala"].lepe == 5 and config.model.options["softmax"].unit_query
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert parse_config(["--config", str(path)]) == config
    assert model_from_dict(yaml.safe_load(yaml.safe_dump(model_to_dict(config.model)))) == config.model
    with pytest.raises(UserError, match=r"^--linear.lepe: an option of linear, but --attention is mala,mala"):
        parse_config(["--out", "x", *arguments, "--linear.lepe", "3"])


STEP = ["--out", "x", "--training.seconds", "1200", "--training.step_seconds", "9600"]


@pytest.mark.parametrize(("devices", "nodes", "accumulate"), [(1, 1, 8), (2, 1, 4), (4, 2, 1)])
def test_a_steps_seconds_are_shared_out_over_any_number_of_devices(tmp_path, devices, nodes, accumulate):
    on = ["--training.devices", str(devices), "--training.nodes", str(nodes)]
    config = parse_config([*STEP, *on])
    assert config.training.accumulate == accumulate
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert parse_config(["--config", str(path)]) == config
    assert (
        parse_config(["--config", str(path), "--training.devices", str(8 // nodes)]).training.accumulate == 1
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--training.devices", "3"], "9600: not a multiple of .* 1200 on 3 devices; nearest is 10800"),
        (["--training.devices", "16"], "9600: not a multiple of .* 1200 on 16 devices; nearest is 19200"),
        (["--training.accumulate", "2"], "--training.accumulate 2: .* makes it 8"),
        (["--training.step_seconds", "-1"], "--training.step_seconds -1"),
    ],
)
def test_a_steps_seconds_that_cannot_be_shared_out_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        parse_config([*STEP, *options])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_model_configuration_survives_as_plain_values(attention):
    config = ModelConfig(attention)
    assert model_from_dict(yaml.safe_load(yaml.safe_dump(model_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "nope"], "--attention nope: 'nope' is unknown; choose from softmax, linear, mala"),
        (["--attention", "mala,,softmax"], "--attention mala,,softmax: '' is unknown"),
        (["--training.steps", "many"], "training.steps"),
        (["--training.steps", "0"], "--training.steps 0: out of range"),
        (["--training.seed", "-1"], "--training.seed -1: out of range"),
        (["--training.weight_decay", "-1"], "--training.weight_decay -1.0: out of range"),
        (["--encoder.batch_norm", "frozen"], "frozen: without --init there are no statistics"),
        (["--mala.form", "eq99"], "mala.form"),
        (["--no-such-option", "1"], "no-such-option"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_options_are_one_line(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        parse_config(["--out", "x", *arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argument", ["--mala.terms=no-beta", "--softmax.lepe=0", "--mala={}"])
def test_options_of_a_mechanism_not_chosen_are_refused_on_the_command_line(argument):
    name = argument.split("=")[0]
    with pytest.raises(UserError, match=f"^{re.escape(name)}: an option of .*, but --attention is linear$"):
        parse_config(["--out", "x", "--attention", "linear", argument])
    with pytest.raises(UserError, match=f"^{re.escape(name)}: an option of "):
        parse_config(["--out", "x", *argument.split("="), "--attention=linear"])  # even a default value


class TestFilesWithOptionsOfSeveralMechanisms:
    @pytest.fixture
    def write(self, tmp_path):
        def call(text: str) -> list[str]:
            (tmp_path / "some.yaml").write_text(text)
            return ["--out", "x", "--config", str(tmp_path / "some.yaml")]

        return call

    @pytest.mark.parametrize(
        "text", ["attention: linear\nmala: {terms: no-beta}", "linear.lepe: 3", "linear: {lepe: 3}"]
    )
    def test_those_not_chosen_are_refused(self, write, text):
        with pytest.raises(UserError, match=r"some\.yaml: holds options of \w+, but the attention is"):
            parse_config(write(text))

    @pytest.mark.parametrize("attention", ["linear", "mala", "softmax"])
    def test_the_command_line_may_choose_among_them(self, write, attention):
        arguments = write("attention: linear\nmala: {terms: no-beta}\nlinear: {lepe: 3}")
        config = parse_config([*arguments, "--attention", attention])
        assert config.model.attention == attention
        options = config.model.options[attention]
        assert getattr(options, "terms", "no-beta") == "no-beta"
        assert options.lepe == (3 if attention == "linear" else 0)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = capsys.readouterr().out
    for words in ("model dimension D", "highest learning rate", "centred", "SpecAugment"):
        assert words in text


FORGETS = ["--mala.forget", "learnt"]


@pytest.mark.parametrize(
    ("options", "also"),
    [
        (["--training.chunk_share", "0.3"], ["--training.chunks", "[4]"]),
        (["--frontend.edges=old"], ["--frontend.kind", "nemo"]),
        (["--mala.half_life", "100"], FORGETS),
        (["--mala.spread", "2"], FORGETS),
    ],
)
def test_options_that_nothing_would_look_at_are_refused_on_the_command_line(options, also, tmp_path):
    name = options[0].split("=")[0]
    with pytest.raises(UserError, match=f"^{re.escape(name)}: wants {also[0]}.*, or it has no effect$"):
        parse_config(["--out", "x", *options])
    complete = parse_config(["--out", "x", *options, *also])
    (tmp_path / "c.yaml").write_text(dump_config(complete))
    chunks, kind = ("--training.chunks", "[]"), ("--frontend.kind", "htk")
    parse_config(["--config", str(tmp_path / "c.yaml"), *chunks, *kind, "--mala.forget", "none"])
