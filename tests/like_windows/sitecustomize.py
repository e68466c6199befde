"""Makes this Python, on Linux, refuse to hart what Windows refuses, as far as that can be had; for `PYTHONPATH`.

- `sys.platform` is win32, and modules, functions and signals that Windows has not are missing
- a file that this process has open or mapped cannot be removed, renamed or replaced, and no folder can be replaced
- names with reserved characters, reserved names and names that end in a dot or a blank cannot be made
- a folder cannot be opened as a file
- new processes are spawned, not forked

All this for the modules of hart alone, where others decide by the platform. The separator of paths and the end of lines
stay Linux's.
"""

# what paths call is replaced here
# ruff: noqa: PTH112, PTH115, PTH119, PTH208

from __future__ import annotations

import builtins
import errno
import fcntl
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = frozenset({"fcntl", "grp", "pwd", "resource", "termios"})
MISSING = {
    "os": frozenset(
        [
            "fork",
            "forkpty",
            "killpg",
            "getpgid",
            "setsid",
            "getuid",
            "geteuid",
            "getgid",
            "getegid",
            "mkfifo",
            "sched_getaffinity",
            "sched_setaffinity",
            "sysconf",
            "statvfs",
            "uname",
            "getloadavg",
            "wait3",
            "wait4",
            "O_NONBLOCK",
            "O_NOFOLLOW",
            "O_DIRECTORY",
            "O_CLOEXEC",
        ]
    ),
    "signal": frozenset(["SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGKILL"]),
    "sys": frozenset(),
}
RESERVED = re.compile(r'.*[<>:"|?*\x00-\x1f\\].*|.*[. ]|(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?')
OWN = ("hart", "hart_emoji")

real_open, real_import = os.open, builtins.__import__
real = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "remove", "rmdir", "link", "mkdir")}


class _OnWindows(ModuleType):
    """A module of the standard library as it is there."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__name__)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        if name in MISSING[self.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return "win32" if (self.__name__, name) == ("sys", "platform") else getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def _locking(handle: int, mode: int, count: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _importing(name: str, names: Any = None, local: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if str((names or {}).get("__name__")).partition(".")[0] not in OWN:
        return real_import(name, names, local, fromlist, level)
    if name in MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return on_windows.get(name) or real_import(name, names, local, fromlist, level)


def _refused(number: int, path: Any) -> OSError:
    return OSError(number, os.strerror(number), os.fspath(path))


def _is_used(path: Any) -> bool:
    place = os.path.realpath(os.fsdecode(path))
    handles = Path("/proc/self/fd")
    used = {os.readlink(handles / name) for name in os.listdir(handles) if os.path.lexists(handles / name)}
    with real_opened("/proc/self/maps") as maps:
        used |= {line.split(maxsplit=5)[-1].strip() for line in maps}
    return place in used


def _require_legal(path: Any) -> None:
    if not isinstance(path, int) and RESERVED.fullmatch(os.path.basename(os.fsdecode(path))):
        raise _refused(errno.EINVAL, path)


def _renaming(call: Any, *, over: bool) -> Any:
    def rename(source: Any, target: Any, **options: Any) -> None:
        _require_legal(target)
        if os.path.lexists(target) and not over:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(source), None, os.fspath(target))
        if _is_used(source) or _is_used(target) or os.path.isdir(target):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(source), None, os.fspath(target))
        call(source, target, **options)

    return rename


def _removing(call: Any) -> Any:
    def remove(path: Any, **options: Any) -> None:
        if _is_used(path if options.get("dir_fd") is None else f"/proc/self/fd/{options['dir_fd']}/{path}"):
            raise _refused(errno.EACCES, path)
        call(path, **options)

    return remove


def _opening(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
    if flags & os.O_CREAT:
        _require_legal(path)
    if not isinstance(path, int) and os.path.isdir(path) and sys._getframe(1).f_globals["__name__"].startswith(OWN):
        raise _refused(errno.EACCES, path)
    return real_open(path, flags, *arguments, **options)


def _making(path: Any, *arguments: Any, **options: Any) -> None:
    _require_legal(path)
    real["mkdir"](path, *arguments, **options)


def _linking(source: Any, target: Any, **options: Any) -> None:
    _require_legal(target)
    real["link"](source, target, **options)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    # what `open` makes
    if event == "open" and isinstance(arguments[0], str) and arguments[1] and set(arguments[1]) & set("wxa"):
        _require_legal(arguments[0])


real_opened = builtins.open
on_windows: dict[str, ModuleType] = {module.__name__: _OnWindows(module) for module in (os, signal, sys)}
on_windows["msvcrt"] = ModuleType("msvcrt")
on_windows["msvcrt"].__dict__.update(LK_NBLCK=2, locking=_locking)
builtins.__import__ = _importing
os.open = _opening
os.replace, os.rename = _renaming(real["replace"], over=True), _renaming(real["rename"], over=False)
os.unlink, os.remove, os.rmdir = map(_removing, (real["unlink"], real["remove"], real["rmdir"]))
os.mkdir, os.link = _making, _linking
sys.addaudithook(_audit)
multiprocessing.set_start_method("spawn")
