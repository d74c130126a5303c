"""A training of many that are compared: run once, gone on with after an interruption, read ever after."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from common import ROOT

from asr.errors import UserError
from asr.files import atomic_write

RESULT = "result.json"


class Result(NamedTuple):
    """Of a variant."""

    command: str  # without what says where things lie
    steps: int
    train_loss: float
    dev_loss: float
    dev_wer: float
    audio_hours: float
    cpu_seconds: float  # of the last start of a run that was stopped


def done_or_train(folder: Path, options: list[str], command: str, name: str = "") -> Result:
    """A training's result; it is run, or goes on, where there is none yet.

    Args:
        folder: the training's own.
        options: of train.py, but for the folder.
        command: what it was, to be told from others; without what says where things lie.
        name: before each line of output, where several run side by side.

    Raises:
        UserError: it failed, or the folder is another training's.
    """
    found = read_result(folder, command)
    if not found:
        print(f"{name or folder.name}: {command}", flush=True)
        found = train(folder, options, command, name)
        atomic_write(folder / RESULT, json.dumps(found._asdict(), indent=1) + "\n")
    return found


def read_result(folder: Path, command: str) -> Result | None:
    """What a finished variant gave; None where it is not done.

    Raises:
        UserError: it was trained by another command, or the file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result = Result(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; delete it, and the variant is looked at again") from None
    if result.command != command:
        raise UserError(f"{path}: trained by another command ({result.command}); name another --out")
    return result


def train(folder: Path, options: list[str], command: str, name: str = "") -> Result:
    """Train, or go on with it; its output goes to train.log and the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-u", str(ROOT / "train.py"), *options]
    program += ["--out", str(folder), "--resume", "auto"]
    with (folder / "train.log").open("a", buffering=1) as log:
        running = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        try:
            for line in running.stdout:
                lines.append(line.strip())
                print(f"{name}  {line}", end="", flush=True)
                log.write(line)
        except BaseException:
            running.terminate()  # it saves, and goes on from there
            running.wait()
            raise
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise UserError(f"{folder}: {lines[-1].removeprefix('error: ') if lines else 'nothing was said'}")
    # A run that was done already, and only not looked at, says nothing again.
    return Result(command, *_numbers(folder), usage.ru_utime + usage.ru_stime)


def _numbers(folder: Path) -> tuple[int, float, float, float, float]:
    """Steps, loss, dev loss, dev WER, hours from the last lines of train.py that say them."""
    log, number = (folder / "train.log").read_text(), r"(-?[\d.]+|nan|inf)"
    validated = re.findall(rf"^step (\d+): dev loss {number}, dev WER {number} % .*, {number} h", log, re.M)
    trained = re.findall(rf"^step \d+/(\d+): loss {number}", log, re.M)
    if not validated or not trained or validated[-1][0] != trained[-1][0]:  # stopped in the last step
        raise UserError(f"{folder / 'train.log'}: says no last dev loss; delete the folder and train again")
    steps, loss, wer, hours = validated[-1]
    return int(steps), float(trained[-1][1]), float(loss), float(wer), float(hours)
