"""Losses, WER and learning rate of a run as a picture in its folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch.callbacks import Callback

from asr.files import atomic_path
from asr.training.skipping import REPORT_EVERY

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Points(NamedTuple):
    """Of a run's curves."""

    training: list[tuple[int, float, float]]  # steps, loss, learning rate
    dev: list[tuple[int, float, float]]  # steps, loss, WER in percent


class Curves(Callback):
    """Draws curves.png at each validation.

    Checkpoints hold the points (three numbers every tenth step), so that a run that goes on draws them from
    its beginning, and none twice.

    Args:
        path: of the picture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points = Points([], [])
        self.rate = 0.0  # learning rate of the step in progress

    def on_before_optimizer_step(self, trainer, task, optimizer) -> None:
        # The schedule moves it on with the step. Groups differ in their rates, and follow one schedule.
        group = optimizer.param_groups[0]
        self.rate = task.config.training.peak_lr * group["lr"] / group["initial_lr"]

    def on_train_batch_end(self, trainer, task, outputs: Any, batch, index: int) -> None:
        step = trainer.global_step
        if step % REPORT_EVERY == 0 and step > (self.points.training[-1][0] if self.points.training else 0):
            # Progress has waited for it already.
            loss = float(outputs["loss"]) * task.config.training.accumulate
            self.points.training.append((step, loss, self.rate))

    def on_validation_end(self, trainer, task) -> None:
        loss, wer = (trainer.callback_metrics.get(f"dev_{name}") for name in ("loss", "wer"))
        if wer is not None:
            self.points.dev.append((trainer.global_step, float(loss), float(wer)))
            if trainer.is_global_zero:
                with atomic_path(self.path) as temporary:
                    draw({"": self.points}).savefig(temporary, format="png")

    def state_dict(self) -> dict[str, Any]:
        return {name: list(points) for name, points in self.points._asdict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points = Points(list(state["training"]), list(state["dev"]))


def draw(runs: dict[str, Points]) -> "Figure":
    """Losses, WER on dev and the learning rate against the steps, a colour a run."""
    from matplotlib.figure import Figure  # only the first rank wants it

    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=100)
    losses, errors, rates = figure.subplots(1, 3)
    for number, (name, points) in enumerate(runs.items()):
        colour = f"C{number}"
        steps, loss, rate = zip(*points.training, strict=True) if points.training else ((), (), ())
        at, dev_loss, wer = zip(*points.dev, strict=True)
        losses.plot(steps, loss, linewidth=0.8, alpha=0.5, color=colour)
        losses.plot(at, dev_loss, marker=".", color=colour)
        errors.plot(at, wer, marker=".", color=colour, label=name)
        rates.plot(steps, rate, color=colour)
    if len(runs) > 1:
        errors.legend(fontsize=8)
    titles = ("loss (thin: training, dots: dev)", "WER on dev (%, greedy)", "learning rate")
    for axes, title in zip(figure.axes, titles, strict=True):
        axes.set(title=title, xlabel="steps")
        axes.grid(alpha=0.3)
    return figure
