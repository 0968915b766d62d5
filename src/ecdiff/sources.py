"""Where a model's files are: a folder, or a repository of the Hugging Face hub. No torch at import.

The hub's own settings hold: HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE, HF_TOKEN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecdiff.errors import InputError, PairError
from ecdiff.quiet import quiet_hub


@dataclass(frozen=True)
class Source:
    """A diffusers pipeline folder, or a hub repository of that layout."""

    repo: str
    revision: str | None = None  # of a hub repository: a branch, tag or commit
    variant: str | None = None  # "fp16" takes NAME.fp16.safetensors

    @property
    def is_folder(self) -> bool:
        return Path(self.repo).is_dir()

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Side:
    """One model's parts. `network` is set when its U-Net or transformer is another repository's."""

    model: Source
    network: Source | None = None


@dataclass(frozen=True)
class Memory:
    """What a side does to need less memory, at the price of time."""

    offload: bool = False  # each part on the GPU only while it works
    vae_tiling: bool = False
    vae_slicing: bool = False

    def check(self, device_type: str) -> None:
        """Raises InputError for an offload without a GPU to take parts off."""
        if self.offload and device_type == "cpu":
            raise InputError("offload: there is no GPU to keep parts off, leave it out on a CPU")


NO_LIMIT = Memory()


def read_json(source: Source, path: str, local_only: bool = False) -> dict[str, Any]:
    """One JSON file of a source; of a hub repository only that file is fetched, once.

    Raises PairError saying what to do.
    """
    file = Path(source.repo) / path
    if not source.is_folder:
        file = _from_hub(source, path, local_only)
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PairError(f"cannot read {file}: {error}") from error
    return content


def _from_hub(source: Source, path: str, local_only: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with quiet_hub():
            return Path(
                hf_hub_download(
                    source.repo, path, revision=source.revision, local_files_only=local_only
                )
            )
    except (OSError, ValueError) as error:  # all of the hub's errors are one or the other
        raise PairError(f"cannot load {path} of {source}: {reason(error, source)}") from error


def reason(error: Exception, source: Source) -> str:
    """Why a source cannot be read and what to do about it, in one line."""
    from huggingface_hub import constants, errors

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)

    def among(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if among(errors.GatedRepoError):
        return (
            "it is gated: accept its licence on https://huggingface.co/"
            f"{source.repo} and set HF_TOKEN"
        )
    if among(errors.RepositoryNotFoundError):
        return "the hub has no such repository, or it is private: check the name, set HF_TOKEN"
    if among(errors.RevisionNotFoundError):
        return f"the repository has no revision {source.revision!r}"
    if among(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = (
            "HF_HUB_OFFLINE is set: unset it once"
            if constants.HF_HUB_OFFLINE
            else "the hub does not answer: check the network"
        )
        return f"it is not in the hub cache and {why}, or use a folder"
    if among(errors.EntryNotFoundError):
        return "the repository has no such file"
    if among(errors.HFValidationError):
        return "it is neither a folder nor a hub repository's name"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
