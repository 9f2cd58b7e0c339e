"""Files of timm's pretrained weights by their tag, in a folder or from the hub. No torch."""

from __future__ import annotations

import logging
from pathlib import Path

FILE = "model.safetensors"  # the name on the hub


class WeightsNotFound(Exception):
    """Pretrained weights that are unavailable; one line with the file and where to put it."""


def weights_url(tag: str) -> str:
    """The URL of the weights `tag` on the hub."""
    return f"https://huggingface.co/{_repository(tag)}/resolve/main/{FILE}"


def find(tag: str, folder: Path | None = None) -> Path:
    """The file of the weights `tag`.

    `folder`/<tag>.safetensors if a folder is given, else in the hub's cache, after a download if
    necessary. Raises WeightsNotFound.
    """
    if folder is None:
        return _download(tag)
    path = folder / f"{tag}.safetensors"
    if folder.exists() and not folder.is_dir():
        raise WeightsNotFound(f"{folder} is a file; name the folder of {path.name}")
    if not path.exists():
        alternative = "or name another folder with --weights or REPRO_WEIGHTS"
        step = f"put {weights_url(tag)} there, {alternative}"
        raise WeightsNotFound(f"{path} is missing: {step}")
    return path


def _download(tag: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # its warnings are part of the error below
    try:
        return Path(hf_hub_download(_repository(tag), FILE))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        step = f"put {weights_url(tag)} to DIR/{tag}.safetensors and name --weights DIR"
        raise WeightsNotFound(f"cannot fetch the weights {tag} ({reason}); {step}") from error


def _repository(tag: str) -> str:
    return f"timm/{tag}"
