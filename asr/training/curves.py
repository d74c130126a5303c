"""Losses, WER and learning rate of a run as a picture in its folder."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from asr.files import atomic_path
from asr.training.skipping import REPORT_EVERY


class Curves(Callback):
    """Draws curves.png at each validation.

    Checkpoints hold the points (three numbers every tenth step), so that a run that goes on draws them from
    its beginning, and none twice.

    Args:
        path: of the picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.training: list[tuple[int, float, float]] = []  # steps, loss, learning rate
        self.dev: list[tuple[int, float, float]] = []  # steps, loss, WER in percent
        self.rate = 0.0  # learning rate of the step in progress

    def on_before_optimizer_step(self, trainer, task, optimizer) -> None:
        self.rate = optimizer.param_groups[0]["lr"]  # the schedule moves it on with the step

    def on_train_batch_end(self, trainer, task, outputs: Any, batch, index: int) -> None:
        step = trainer.global_step
        if step % REPORT_EVERY == 0 and step > (self.training[-1][0] if self.training else 0):
            # Progress has waited for it already.
            loss = float(outputs["loss"]) * task.config.training.accumulate
            self.training.append((step, loss, self.rate))

    def on_validation_end(self, trainer, task) -> None:
        loss, wer = (trainer.callback_metrics.get(f"dev_{name}") for name in ("loss", "wer"))
        if wer is not None:
            self.dev.append((trainer.global_step, float(loss), float(wer)))
            if trainer.is_global_zero:
                draw(self.training, self.dev, self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"training": list(self.training), "dev": list(self.dev)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.training, self.dev = list(state["training"]), list(state["dev"])


def draw(training: list[tuple], dev: list[tuple], path: Path) -> None:
    """Write the picture: losses, WER on dev and the learning rate against the steps.

    Args:
        training: (steps, loss, learning rate) each.
        dev: (steps, loss, WER in percent) each.
        path: PNG file.
    """
    from matplotlib.figure import Figure  # only the first rank wants it

    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=100)
    losses, errors, rates = figure.subplots(1, 3)
    steps, loss, rate = zip(*training, strict=True) if training else ((), (), ())
    at, dev_loss, wer = zip(*dev, strict=True)
    losses.plot(steps, loss, linewidth=0.8, alpha=0.6, label="training")
    losses.plot(at, dev_loss, marker=".", label="dev")
    losses.legend(fontsize=8)
    errors.plot(at, wer, marker=".", color="tab:orange")
    rates.plot(steps, rate, color="tab:green")
    titles = {losses: "loss", errors: "WER on dev (%, greedy)", rates: "learning rate"}
    for axes, title in titles.items():
        axes.set(title=title, xlabel="steps")
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
