"""Whether the Hugging Face hub can be reached. No test uses the network."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hart.errors import HartError
from hart.hub import unreachable


def test_what_only_the_hubs_library_knows_is_left_to_it(direct: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(host: str, port: int) -> None:
        raise OSError("asked")

    monkeypatch.setattr("hart.hub._connect", connect)
    monkeypatch.setattr("hart.hub.PAUSES", (0.0,))
    assert unreachable() == "asked"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert unreachable() is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert unreachable() is None
    monkeypatch.setenv("no_proxy", "huggingface.co")
    assert unreachable() == "asked"


@pytest.mark.parametrize(
    "endpoint",
    ["huggingface.co", "http://host:notaport", "http://host:99999", "http://[::1", "ftp://host", "https://", ""],
)
def test_what_is_no_address_is_refused(direct: None, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    with pytest.raises(HartError, match=r"^HF_ENDPOINT .*: is not the address of a hub: give https://HOST ") as error:
        unreachable()
    assert "\n" not in str(error.value)


PYTHON = """
from hart.data.opening import open_source
from hart.checkpoint.hub import require_repository, upload
from hart.checkpoint.loading import resolve_model
from hart.errors import HartError
for use in (
    lambda: resolve_model("someone/model"),
    lambda: require_repository("someone/model"),
    lambda: upload(".", "someone/model", private=None, token=None, message=""),
    lambda: open_source("hf:someone/images"),
):
    try:
        use()
    except HartError as error:
        print(error)
"""


def test_an_address_with_which_the_hubs_library_cannot_be_imported_is_one_line() -> None:
    pytest.importorskip("datasets")
    environment = os.environ | {"HF_ENDPOINT": "http://host:notaport"}
    done = subprocess.run([sys.executable, "-c", PYTHON], env=environment, capture_output=True, text=True, check=True)
    said = "HF_ENDPOINT 'http://host:notaport': is not the address of a hub: give https://HOST or https://HOST:PORT"
    assert done.stdout.splitlines() == [said] * 4
