"""PyTorch files of strangers, checked for what would make them grow: before they are loaded, and after."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from asr.errors import UserError


def check_records(file: str | Path | BinaryIO, size: int, name: str | Path) -> None:
    """Raise where a record's CRC-32 is wrong, which torch.load does not look at, or where it would grow.

    torch.save compresses nothing and stores each byte once: unpacked, a file is no larger than it is.

    Args:
        file: a PyTorch file, open or by its path.
        size: its bytes.
        name: for errors.

    Raises:
        UserError: it would grow.
        zipfile.BadZipFile: it is damaged, or no such file.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if compressed or sum(record.file_size for record in records) > size:
            raise UserError(f"{name}: has compressed records, which PyTorch never writes; not loaded")
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def check_extents(tensors: Iterable[Tensor], size: int, name: str | Path) -> None:
    """Raise UserError where tensors are larger than a file of ``size`` bytes: views that repeat a few."""
    if sum(tensor.nbytes for tensor in tensors) > size:
        raise UserError(
            f"{name}: its weights are larger than the file; PyTorch never writes such; not loaded"
        )
