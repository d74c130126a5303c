"""Models of the Hugging Face hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` in a checkpoint's place.

huggingface_hub (the extra ``hub``) fetches them into its own cache (HF_HOME), goes on with a download that
was interrupted, and asks HF_ENDPOINT where that is set. Only an exported folder, a folder of Parakeet-CTC or
a .nemo file is fetched, and each file is compared with the checksum that the hub states.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from asr.checkpoints.folder import CARD, CONFIG, TOKENIZER, WEIGHTS
from asr.checkpoints.foreign import huggingface
from asr.errors import UserError

PREFIX = "hf:"
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_OURS = {CONFIG, WEIGHTS, TOKENIZER}
_THEIRS = {huggingface.CONFIG, huggingface.WEIGHTS, huggingface.TOKENIZER}
_WELCOME = {CARD, huggingface.FEATURES, huggingface.PROCESSOR}


def is_hub(path: str | Path) -> bool:
    """Whether a checkpoint's name means a model of the hub."""
    return str(path).startswith(PREFIX)


def fetch(name: str) -> Path:
    """The folder or .nemo file of ``hf:OWNER/NAME``, fetched where it is not in the cache yet.

    Without a network, what the cache holds is taken.

    Raises:
        UserError: no such model, none of a kind that is read here, it cannot be fetched or is damaged; or
            huggingface_hub is not installed.
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise UserError(f"{name}: wants hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import HfApi, errors
    except ImportError:
        raise UserError(
            f"{name}: wants the package huggingface_hub: pip install 'magnitude-asr[hub]', or download the "
            "model's folder or .nemo file yourself and name that"
        ) from None
    repository, revision = found.groups()
    api = HfApi()
    try:
        about = api.model_info(repository, revision=revision, files_metadata=True)
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such model, or a private or gated one: then accept its terms and set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the model has no revision {revision}") from None
    except Exception as error:  # its HTTP client's, of which there was another in each major version
        return _from_cache(api, name, repository, revision, error)
    files = {item.rfilename: item for item in about.siblings}
    for file in wanted(files, name):
        path = _download(api, name, repository, revision or "main", file)
        if not _intact(path, files[file]):
            path.resolve().unlink()  # the cache's copy, so that it is fetched again
            raise UserError(f"{name}: {file} was damaged on its way, and removed; try again")
    return path if path.suffix == ".nemo" else path.parent


def wanted(files: Any, name: str) -> list[str]:
    """Of a repository's files, those to fetch.

    Raises:
        UserError: it holds no model of a kind that is read here.
    """
    names = set(files)
    archives = sorted(file for file in names if file.endswith(".nemo"))
    if names >= _OURS:
        return sorted(names & (_OURS | _WELCOME))
    if len(archives) == 1:  # before Hugging Face's folder: its tokenizer says how words are spelled
        return archives
    if names >= _THEIRS:
        return sorted(names & (_THEIRS | _WELCOME))
    raise UserError(
        f"{name}: holds no exported model ({', '.join(sorted(_OURS))}), Parakeet-CTC or single .nemo file"
    )


def _download(api: Any, name: str, repository: str, revision: str, file: str) -> Path:
    try:
        return Path(api.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # as above
        reason = f"{file} could not be fetched ({_reason(error)})"
        raise UserError(f"{name}: {reason}; the next try goes on from there") from None


def _intact(path: Path, item: Any) -> bool:
    """Whether a file has the checksum that the hub states: SHA-256, or of small files git's."""
    if item.lfs:
        with path.open("rb") as file:  # it may be gigabytes
            return hashlib.file_digest(file, "sha256").hexdigest() == item.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == item.blob_id


def _from_cache(api: Any, name: str, repository: str, revision: str | None, error: Exception) -> Path:
    try:
        folder = Path(api.snapshot_download(repository, revision=revision, local_files_only=True))
        files = wanted([path.name for path in folder.iterdir()], name)
    except (OSError, UserError, ValueError):
        reason = f"the hub does not answer ({_reason(error)})"
        raise UserError(f"{name}: {reason}, and the cache does not hold it") from None
    return folder / files[0] if files[0].endswith(".nemo") else folder


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
