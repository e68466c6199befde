"""The sub-commands of `hart`, one file a group, and what command lines of projects are made of.

PyTorch and the models are imported inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.commands.console import Report, needs_extra, note, owned, progress, prompt_notes, writable_folder
    from hart.commands.evaluate import suite_app
    from hart.commands.from_config import options_from_config
    from hart.commands.program import program, run_program

__all__ = [
    "Report",
    "needs_extra",
    "note",
    "options_from_config",
    "owned",
    "program",
    "progress",
    "prompt_notes",
    "run_program",
    "suite_app",
    "writable_folder",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.commands.console": "Report needs_extra note owned progress prompt_notes writable_folder",
        "hart.commands.evaluate": "suite_app",
        "hart.commands.from_config": "options_from_config",
        "hart.commands.program": "program run_program",
    },
)
