"""The files of released weights: timm's, by their tag, in a folder or from the hub. No torch."""

from __future__ import annotations

import logging
from pathlib import Path

FILE = "model.safetensors"  # its name at the hub


class NoWeights(Exception):
    """Released weights that are not to be had here; one line with the file and where to put it."""


def source(tag: str) -> str:
    """Where the hub has the weights `tag`."""
    return f"https://huggingface.co/{_repository(tag)}/resolve/main/{FILE}"


def find(tag: str, folder: Path | None = None) -> Path:
    """The file of the weights `tag`.

    It is `folder`/<tag>.safetensors where a folder is named, and else in the hub's cache, which is
    filled over the network. Raises NoWeights.
    """
    if folder is None:
        return _fetched(tag)
    path = folder / f"{tag}.safetensors"
    if folder.exists() and not folder.is_dir():
        raise NoWeights(f"{folder} is a file; name the folder that has {path.name}")
    if not path.exists():
        other = "or name another folder with --weights or REPRO_WEIGHTS"
        raise NoWeights(f"{path} is missing: put {source(tag)} there, {other}")
    return path


def _fetched(tag: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings come again below
    try:
        return Path(hf_hub_download(_repository(tag), FILE))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        step = f"put {source(tag)} to DIR/{tag}.safetensors and name --weights DIR"
        raise NoWeights(f"cannot fetch the weights {tag} ({reason}); {step}") from error


def _repository(tag: str) -> str:
    return f"timm/{tag}"
