"""Public files that suites need: fetched once from their homes, and named with their address when they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hart.data.samples import one_line
from hart.errors import HartError
from hart.evaluation.pretrained import is_hub_id, short_name
from hart.files import default_cache, user_path

HUB_DATASETS = "https://huggingface.co/datasets/"


def at_hand(source: str, data: Path | None) -> str:
    """Where something public lies: below `data` if a file or folder there has its name, else `source` itself.

    source: a hub id or a web address; a path stays as it is. data: what `--data` gives. On a machine without network
    that folder may hold weights beside the set: `clip-vit-large-patch14/` for `openai/clip-vit-large-patch14`.
    """
    if data is not None and (is_hub_id(source) or "://" in source):
        beside = user_path(data) / short_name(source)
        if beside.exists():
            return str(beside)
    return source


def cached_file(address: str, instead: str, *, sha256_prefix: str | None = None, cache: Path | None = None) -> Path:
    """The file behind a web address, on this machine; fetched at the first call.

    instead: what to do where there is no network, for the error. sha256_prefix: hex digits that its SHA-256 begins
    with. cache: by default the user's cache folder. Raises `HartError`.
    """
    file = (default_cache() if cache is None else cache) / "evaluation" / address.rsplit("/", maxsplit=1)[-1]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # whole or not at all: it fills a neighbouring file and renames it
            torch.hub.download_url_to_file(address, str(file), hash_prefix=sha256_prefix, progress=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise HartError(f"{address}: cannot be fetched ({one_line(error)}): {instead}") from None
    return file


def hub_dataset(repository: str, files: Sequence[str], instead: str) -> Path:
    """A folder with these files of a Hugging Face data set, in the hub's own cache; fetched at the first call.

    Raises `HartError` with the data set's address. instead: see `cached_file`.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=list(files)))
    except Exception as error:  # the hub's own kinds, and those of the HTTP library below it
        raise HartError(f"{HUB_DATASETS}{repository}: cannot be fetched ({one_line(error)}): {instead}") from None
