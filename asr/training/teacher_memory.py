"""What a teacher said of each utterance, kept in a folder, so that it hears none twice."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.errors import UserError
from asr.files import atomic_write
from asr.model.frames import valid_frames


class Said(NamedTuple):
    """Of a batch."""

    log_probs: Tensor  # (B, N, classes)
    stream: dict[int, Tensor]  # (B, N, D) by depth


class TeacherMemory:
    """A file an utterance, in half precision: log-probabilities beside frames (n, classes + depths D).

    Several trainings may write and read it at once. Right only where an utterance is heard the same every
    time: at one speed, in the full context, unmasked.

    Args:
        folder: of all teachers.
        digest: of this one's weights.
        depths: of the frames that are kept.
    """

    def __init__(self, folder: Path, digest: str, depths: Sequence[int]) -> None:
        self.depths = sorted(depths)
        self.folder = folder / f"{digest[:16]}-{'.'.join(map(str, self.depths))}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--training.teacher_memory {folder}: {error.strerror}") from None

    def paths(self, waveforms: Tensor, samples: Tensor) -> list[Path]:
        """Where each of a batch's utterances (B, S), of so many samples (B,), is: its audio is its name."""
        found = zip(waveforms.cpu().numpy(), samples.tolist(), strict=True)
        names = (hashlib.blake2b(one[:n].tobytes(), digest_size=16).hexdigest() for one, n in found)
        return [self.folder / f"{name}.npy" for name in names]

    def recall(self, paths: Sequence[Path], classes: int, device: torch.device) -> Said | None:
        """What was said of a batch, fp32, padded with 0; None where an utterance is new."""
        try:
            found = [torch.from_numpy(np.load(path)) for path in paths]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"--training.teacher_memory {self.folder}: {error}; delete it") from None
        return self._apart(pad_sequence(found, batch_first=True).to(device, non_blocking=True), classes)

    def keep(self, paths: Sequence[Path], said: Said, lengths: Tensor) -> Said:
        """Write a batch's, of so many frames (B,) each; returns what will be recalled.

        Learnt from at once, so that what is there already makes no difference: a killed run goes on alike.
        """
        whole = torch.cat([said.log_probs, *(said.stream[depth] for depth in self.depths)], -1).half()
        valid = valid_frames(lengths.to(whole.device), whole.shape[1])
        whole = whole.masked_fill(~valid[..., None], 0)
        for path, n, one in zip(paths, lengths.tolist(), whole.cpu(), strict=True):
            memory = io.BytesIO()
            np.save(memory, one[:n].numpy())
            atomic_write(path, memory.getbuffer())
        return self._apart(whole, said.log_probs.shape[-1])

    def _apart(self, whole: Tensor, classes: int) -> Said:
        dim = (whole.shape[-1] - classes) // len(self.depths)
        log_probs, *stream = whole.float().split([classes] + [dim] * len(self.depths), -1)
        return Said(log_probs, dict(zip(self.depths, stream, strict=True)))
