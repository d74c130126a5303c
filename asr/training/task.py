"""One training run's model, loss, optimiser and validation, as a LightningModule."""

import math
import random
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar

import lightning as L
import torch
from torch import Tensor
from tqdm import tqdm

from asr.checkpoints.checkpoint import pack_recipe
from asr.checkpoints.origin import Source
from asr.data.batches import Batch, TrainingSampler
from asr.data.tokenizer import Tokenizer
from asr.decoding.greedy import greedy
from asr.decoding.label_looping import transducer_greedy
from asr.distributed import sum_over_ranks, take_from_first
from asr.model.recogniser import Model
from asr.scoring.errors import word_errors
from asr.training.config import Config, TrainingConfig
from asr.training.distillation import Teacher, modules_to_match
from asr.training.losses import training_loss
from asr.training.optimiser import make_optimiser
from asr.training.skipping import REPORT_EVERY, SkippedSteps
from asr.training.streaming import validation_chunk
from asr.training.variational_noise import VariationalNoise


class TrainingTask(L.LightningModule):
    """One training run's model, loss, optimiser and validation.

    Attributes:
        digests: what tells the data trained and validated on from others, for checkpoints.
        init: from whose weights the run began.
        run: a name for the run, which its checkpoints share.
        origin: models of others that it is made from.
        teacher: whom the run learns from, if there is one.
        sampler: of training batches; checkpoints hold the place in them.
    """

    digests: ClassVar[dict[str, str]] = {}
    origin: Sequence[Source] = ()
    teacher: Teacher | None = None
    sampler: TrainingSampler | None = None

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.init = config.init
        self.run = uuid.uuid4().hex
        self.tokenizer = tokenizer
        self.model = Model(config.model, tokenizer.pieces)
        leave_alone(self.model, config.training)
        self.frozen = frozen_parts(self.model, config.training)
        self.train()
        self.audio_seconds = 0.0
        # On this rank, of the validation in progress, for each head: nats, pieces, errors, words.
        self.dev = {head: [0.0] * 4 for head in config.model.heads}
        self.validated = (0, 0.0)  # after how many steps last, and the WER on dev in percent
        self.batch_number = 0  # of the next one, on this rank
        self.noise = VariationalNoise(config.training.variational_noise)
        self.skipped = SkippedSteps(config.training.skip_limit)

    def train(self, mode: bool = True) -> "TrainingTask":
        """As any module's, but what is frozen has no dropout, and its batch norm stays as it is."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def on_fit_start(self) -> None:
        name = "skipped.jsonl" if self.global_rank == 0 else f"skipped.{self.global_rank}.jsonl"
        self.skipped.path = None if self.config.dry_run else self.config.out / name

    def on_train_start(self) -> None:
        if self.teacher:
            self.teacher.model.to(self.device)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        # Dropout and augmentation are a function of seed and batch too: a resumed run draws the same.
        key = f"{self.config.training.seed} {self.batch_number} {self.global_rank}"
        torch.manual_seed(random.Random(key).getrandbits(63))
        if self.config.training.variational_noise:
            self.noise.add(self.model.transducer)
        self.batch_number += 1
        self.audio_seconds += batch.seconds * self.trainer.world_size

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = training_loss(self.model, batch, self.config.training, self.teacher)
        self.skipped.watch(batch.ids, loss.utterances)
        self.log("train_loss", loss.total)
        if self.teacher or self.config.model.head == "hybrid":
            self.log_dict({f"train_{name}": part for name, part in loss.parts.items()})
        return loss.total

    def on_after_backward(self) -> None:
        self.noise.remove()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_validation_epoch_start(self) -> None:
        # Running averages of the ranks' own statistics differ. (Averaging has put its weights in by now.)
        if self.config.model.encoder.batch_norm == "local":
            take_from_first(self.model.buffers())

    def validation_step(self, batch: Batch, index: int) -> None:
        chunk = validation_chunk(self.config.training)
        x, lengths = self.model.encode(batch.waveforms, batch.lengths, chunk)
        for head in self.dev:
            losses, found = self.judge(head, x, lengths, batch)
            # An utterance with more pieces than frames has no CTC path; dev is not filtered.
            able = losses.isfinite()
            counts = [losses[able].sum().item(), batch.target_lengths[able.cpu()].sum().item(), 0, 0]
            for classes, reference in zip(found, batch.texts, strict=True):
                count = word_errors(reference, self.tokenizer.decode(classes))
                counts[2:] = counts[2] + count.total, counts[3] + count.words
            self.dev[head] = [a + b for a, b in zip(self.dev[head], counts, strict=True)]

    def judge(self, head: str, x: Tensor, lengths: Tensor, batch: Batch) -> tuple[Tensor, list[list[int]]]:
        """A head's losses on encoded frames (B, N, D), (B,) in nats, and what it greedily makes of each."""
        if head == "transducer":
            losses = self.model.transducer.loss(x, lengths, batch.targets, batch.target_lengths)
            return losses, [found.classes for found in transducer_greedy(self.model.transducer, x, lengths)]
        log_probs = self.model.head(x)
        losses = self.model.head.loss(log_probs, lengths, batch.targets, batch.target_lengths)
        return losses, greedy(log_probs, lengths)

    def on_validation_epoch_end(self) -> None:
        counts = torch.tensor(list(self.dev.values()), dtype=torch.float64, device=self.device)
        totals = sum_over_ranks(counts).tolist()
        for head, (nats, pieces, errors, words) in zip(self.dev, totals, strict=True):
            self.dev[head] = [0.0] * 4
            name = "dev" if head == self.config.model.heads[0] else f"dev_{head}"
            self.log(f"{name}_loss", nats / max(pieces, 1))  # the same on every rank, as is the next
            self.log(f"{name}_wer", wer := 100 * errors / max(words, 1))
            if name == "dev":
                self.validated = (self.global_step, wer)
        self.log("audio_hours", self.audio_seconds / 3600)

    def configure_optimizers(self):
        config = self.config.training
        optimizer = make_optimiser(self.model, config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, config))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, **_) -> None:
        # Lightning's own refuses a fused optimiser under bf16, for a reason that concerns fp16 only.
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.training.clip)
        self.log("gradient_norm", norm)
        self.skipped.gate(self.optimizers(use_pl_optimizer=False), norm, self.global_step + 1)

    def on_train_batch_end(self, outputs, batch: Batch, index: int) -> None:
        if self.global_step % REPORT_EVERY == 0:
            self.report_skipped()

    def on_train_end(self) -> None:
        self.report_skipped()

    def report_skipped(self) -> None:
        """Say which steps were skipped; raises UserError where they are too many."""
        for line in self.skipped.report():
            tqdm.write(line)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["recipe"] = pack_recipe(self.config.model, self.tokenizer)
        checkpoint["training"] = asdict(self.config.training)
        checkpoint |= self.digests
        checkpoint["init"] = self.init
        checkpoint["run"] = self.run
        step, wer = self.validated
        checkpoint["dev_wer"] = wer if step == self.global_step else None
        checkpoint["origin"] = list(self.origin)
        checkpoint["teacher_digest"] = self.teacher.digest if self.teacher else ""
        checkpoint["place"] = self.sampler.place(self.global_step * self.batches_a_step)
        checkpoint["audio_seconds"] = self.audio_seconds
        self.report_skipped()
        checkpoint["skipped"] = [self.skipped.total, self.skipped.in_row]

    @property
    def batches_a_step(self) -> int:
        """Of all ranks."""
        return self.config.training.accumulate * self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.audio_seconds = checkpoint["audio_seconds"]
        self.skipped.total, self.skipped.in_row = checkpoint.get("skipped", (0, 0))


def leave_alone(model: Model, config: TrainingConfig) -> None:
    """Keep still what no loss reaches: DDP waits for every other parameter's gradient."""
    if config.distil_stages:
        if model.transducer:
            model.transducer.requires_grad_(False)
        return
    if not config.uses_encoder:
        model.requires_grad_(False)
        for name in modules_to_match(model, config):
            model.get_submodule(name).requires_grad_(True)
        return
    if model.head and not config.uses_head:
        model.head.requires_grad_(False)
    if model.transducer and not config.transducer:
        model.transducer.requires_grad_(False)
    for part in frozen_parts(model, config):
        part.requires_grad_(False)


def frozen_parts(model: Model, config: TrainingConfig) -> list[torch.nn.Module]:
    """What --training.freeze names."""
    parts = {"encoder": model.encoder, "ctc": model.head, "transducer": model.transducer}
    return [parts[name] for name in config.freeze]


def lr_factor(step: int, config: TrainingConfig) -> float:
    """Learning rate at a step as a share of the peak: linear warm-up, then noam's or cosine's fall."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "noam":
        return math.sqrt(max(config.warmup, 1) / max(step, 1))
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
