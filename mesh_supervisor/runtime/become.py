"""Turns a warm process, or a copy of it, into the instance that a `start` packet describes.

What an exec would have given it is given to it here: session, tag, death signal, standard streams, environment,
directory, limits, randomness. What only an exec can give (other flags of Python, another C library) is part of the key
under which the supervisor keeps warm processes.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

from . import streams, title
from .hints import Any

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_RLIMIT_LOCKS = 10
_LONGEST_WAIT = 5.0
_CHANNEL = 3
"""Where it stands among the descriptors: stdin, stdout, stderr, channel."""


class Order:
    """A `start` packet, looked through. Raises ValueError, KeyError, TypeError for one that makes no sense."""

    def __init__(self, start: Mapping[str, Any], descriptors: list[int]) -> None:
        if len(descriptors) < _CHANNEL + 1 + len(start["held"]):
            raise ValueError(f"{len(descriptors)} descriptors came with it")
        self.received = descriptors
        self.streams, self.channel, self.held = descriptors[:3], descriptors[3], descriptors[4:]
        program = start["program"]
        self.kind, self.name = str(program["kind"]), str(program["name"])
        self.args = [str(word) for word in program["args"]]
        self.words = [str(word) for word in start["words"]]
        self.environ = {_bytes(name): _bytes(value) for name, value in start["environ"].items()}
        self.directory = str(start["directory"])
        self.parent, self.tag = int(start["parent"]), int(start["tag"])
        self.files, self.umask = _number(start.get("files")), _number(start.get("umask"))


def _bytes(text: str) -> bytes:
    """As the supervisor has read it, whatever the encoding is here."""
    found = text.encode("utf-8", "surrogateescape")
    if b"\0" in found:
        raise ValueError("a name or value of the environment has a NUL in it")
    return found


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


# ---- whose it is -------------------------------------------------------------------------------------------------


def settle(order: Order, forked_by: int | None) -> None:
    """Session, tag, death signal. ``forked_by``: the process that forked this one and is about to exit; None: this is
    the warm process itself, which has its session and its death signal from its own start. Raises OSError.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    _carry(order.tag)
    if forked_by is not None:
        _wait_for_parent(order.parent, forked_by)
        die_with(order.parent)


def die_with(parent: int) -> None:
    """Ask for SIGKILL at the parent's death, then look whether it is alive: it may have died just before."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def _carry(tag: int) -> None:
    try:
        resource.setrlimit(_RLIMIT_LOCKS, (tag, resource.getrlimit(_RLIMIT_LOCKS)[1]))
    except (OSError, ValueError):
        pass  # a sandbox without it: whoever needs the tag looks for it


def _wait_for_parent(parent: int, forked_by: int) -> None:
    """The death signal counts for the parent of the moment, so not before that is the supervisor."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while os.getppid() == forked_by and time.monotonic() < deadline:
        time.sleep(0.0001)
    if os.getppid() != parent:
        raise OSError(0, f"its parent is {os.getppid()}, not the supervisor ({parent}): is that a subreaper?")


# ---- what it sees ------------------------------------------------------------------------------------------------


class Imported:
    """What imports have done to the environment, to be done again in every instance."""

    def __init__(self, given: Mapping[bytes, bytes], before: Mapping[bytes, bytes]) -> None:
        """``given``: at the exec; Python itself may have added LC_CTYPE. ``before``: before the imports."""
        now = dict(os.environb)
        self.added = {name: value for name, value in now.items() if name not in given}
        self._changed = {
            name: (before[name], value) for name, value in now.items() if name in before and before[name] != value
        }
        self._removed = [name for name in before if name not in now]

    def upon(self, environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        found = {**self.added, **environ}
        for name, (old, new) in self._changed.items():
            # PATH = somewhere + PATH: it keeps the part that is the instance's own.
            mine = environ.get(name, old)
            found[name] = new.replace(old, mine) if old and old in new else new
        for name in self._removed:
            found.pop(name, None)
        return found


def put_on(order: Order, imported: Imported, *, forked: bool) -> None:
    """Everything that the program can see. The descriptors of the streams are closed; those of channel and ``held``
    are not touched. What cannot be done ends the process as exec_helper.py would.
    """
    for fd, given in enumerate(order.streams):
        os.dup2(given, fd, inheritable=True)
        os.close(given)
    before = _working_directory()
    environ = imported.upon(order.environ)
    _replace_environment(environ)
    _limit_files(order.files)
    if order.umask is not None:
        os.umask(order.umask)
    _enter(order.directory)
    _attempt(_move_path, before, order.directory)
    _attempt(streams.renew, _is_unbuffered(environ))
    _attempt(_restart_clocks)
    _attempt(_give_fastmcp_its_address)
    if forked:
        for share in (_reseed_numpy, _reseed_torch, _renew_authkey, _renew_main_thread):
            _attempt(share)
        _attempt(_show, order)
    # What is frozen is not collected: the program's own names would never be given up. It is the last thing done before
    # Python takes everything apart.
    atexit.register(gc.unfreeze)


def _replace_environment(environ: Mapping[bytes, bytes]) -> None:
    os.environ.clear()  # the C library's too
    os.environb.update(environ)
    time.tzset()


def _limit_files(files: int | None) -> None:
    if files is not None:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        except (OSError, ValueError) as error:
            give_up(126, f"cannot limit its open files to {files}: {error}")


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        give_up(126, f"cannot enter the directory {directory}: {error.strerror}")


def _move_path(before: str, directory: str) -> None:
    """Relative entries of PYTHONPATH were made absolute at Python's start."""
    given = os.environ.get("PYTHONPATH")
    if not given or sys.flags.ignore_environment or before == directory:
        return
    for entry in given.split(os.pathsep):
        if not entry.startswith("/"):
            old = os.path.abspath(os.path.join(before, entry))
            new = os.path.abspath(os.path.join(directory, entry))
            sys.path[:] = [new if each == old else each for each in sys.path]


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _is_unbuffered(environ: Mapping[bytes, bytes]) -> bool:
    """-u is what the warm process has; the name in the environment is part of its key, so it has that too."""
    by_name = not sys.flags.ignore_environment and bool(environ.get(b"PYTHONUNBUFFERED"))
    return by_name or streams.are_unbuffered()


def give_up(code: int, sentence: str) -> None:
    os.write(2, f"meshsup: {sentence}\n".encode(errors="surrogateescape"))
    os._exit(code)


def _attempt(do: Callable[..., object], *given: object) -> None:
    """What is not worth an instance that does not start."""
    try:
        do(*given)
    except Exception as error:  # noqa: BLE001 - a version that looks otherwise inside; the program must run
        os.write(2, f"meshsup: {do.__name__.strip('_')}: {type(error).__name__}: {error}\n".encode(errors="replace"))


def _give_fastmcp_its_address() -> None:
    """It reads these two when it is imported. They differ from agent to agent, so a warm process has neither."""
    settings: Any = getattr(sys.modules.get("fastmcp"), "settings", None)
    host, port = os.environ.get("FASTMCP_HOST"), os.environ.get("FASTMCP_PORT")
    if host is not None and hasattr(settings, "host"):
        settings.host = host
    if port is not None and hasattr(settings, "port"):
        settings.port = int(port)


# ---- what it must not share --------------------------------------------------------------------------------------
# ``random`` and ``tempfile`` see to it themselves.


def _reseed_numpy() -> None:
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _reseed_torch() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _renew_authkey() -> None:
    """multiprocessing makes it when it is imported."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def _renew_main_thread() -> None:
    threading = sys.modules.get("threading")
    if threading is not None:
        threading.main_thread()._set_native_id()


def _restart_clocks() -> None:
    """``relativeCreated`` counts from the import of logging."""
    logging: Any = sys.modules.get("logging")
    start = getattr(logging, "_startTime", None)
    if logging is not None and start is not None:
        logging._startTime = time.time_ns() if isinstance(start, int) else time.time()


def _show(order: Order) -> None:
    """As a cold start looks: the words of this process, up to its KIND."""
    words = title.own_words()
    if b"warm" not in words:
        return
    at = len(words) - 1 - words[::-1].index(b"warm")
    own = [b"%d" % order.channel, *map(os.fsencode, (order.kind, order.name, *order.args))]
    title.show([*words[: at - 1], *own], [name + b"=" + value for name, value in order.environ.items()])
