"""The sub-commands of `hart`, one file per group, and the building blocks of projects' command lines.

PyTorch and the models are imported inside the functions, so that help appears at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.commands.console import Report, needs_extra, note, owned, progress, prompt_notes, require_writable_file
    from hart.commands.evaluate import suite_app
    from hart.commands.from_config import options_from_config
    from hart.commands.program import new_program, run_program
    from hart.files import require_writable
    from hart.strict import counted

# fmt: off
__all__ = [
    "Report", "counted", "needs_extra", "new_program", "note", "options_from_config", "owned", "progress",
    "prompt_notes", "require_writable", "require_writable_file", "run_program", "suite_app",
]
# fmt: on
__getattr__, __dir__ = lazy(__name__)
