"""What a teacher said of each utterance, kept in a folder, so that it hears none twice."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.errors import UserError
from asr.files import atomic_path


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
        said = pad_sequence(found, batch_first=True).to(device, torch.float32, non_blocking=True)
        dim = (said.shape[-1] - classes) // len(self.depths)
        log_probs, *stream = said.split([classes] + [dim] * len(self.depths), -1)
        return Said(log_probs, dict(zip(self.depths, stream, strict=True)))

    def keep(self, paths: Sequence[Path], said: Said, lengths: Tensor) -> None:
        """Write a batch's, of so many frames (B,) each."""
        whole = torch.cat([said.log_probs, *(said.stream[depth] for depth in self.depths)], -1).half().cpu()
        for path, n, one in zip(paths, lengths.tolist(), whole, strict=True):
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, one[:n].numpy())
