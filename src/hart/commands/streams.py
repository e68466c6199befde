"""Standard output and error whose readers may go away."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

CLOSED = frozenset({errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET}) | (
    {errno.EINVAL} if sys.platform == "win32" else frozenset()
)
"""What writing to a pipe without a reader gives."""


def outlive_readers() -> None:
    """Let writing to the standard streams succeed after their readers are gone; nothing is then written."""
    # there is nowhere to report a failure of standard error
    for name, failures in (("stdout", "standard output"), ("stderr", None)):
        stream = getattr(sys, name)
        # not if it is closed, a Windows console, or an object that a test or a notebook put there
        if isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
            stream.flush()
            file: Any = _Lasting(stream.fileno(), failures)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(file) if isinstance(stream.buffer, io.BufferedWriter) else file,
                stream.encoding,
                stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, lasting)


class _Lasting(io.FileIO):
    """A file that was open already, which it leaves open."""

    def __init__(self, handle: int, failures: str | None) -> None:
        """failures: name of the stream in errors other than missing readers, raised once; None raises none."""
        super().__init__(handle, "wb", closefd=False)
        self._failures = failures

    def write(self, content: Any) -> Any:
        """Take all of the content, even if nobody reads it any more."""
        if not len(content):  # libraries try out in this way what a stream takes
            return 0
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            # from now on, whatever anybody writes to it goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._failures is not None and error.errno not in CLOSED:
                raise OSError(error.errno, error.strerror, self._failures) from None
            return len(memoryview(content).cast("B"))
