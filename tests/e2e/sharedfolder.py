"""A folder as a virtual machine shares it with its host: files and folders, no sockets, no hard links, nothing else.

``python sharedfolder.py BELOW POINT TYPE`` mounts what lies in BELOW at POINT, says "mounted", and serves it until its
stdin ends. It speaks the protocol of /dev/fuse (linux/fuse.h, 7.31) itself: what tests need of it, for one user.
``shared`` starts it, in a namespace of mounts that is its own and that of whoever ``enters`` it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
ANSWERS_NOTHING = frozenset({2, 36, 42})  # FORGET, INTERRUPT, BATCH_FORGET
STATFS = struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0)
LARGEST_WRITE = 128 * 1024
REFUSED = (stat.S_IFSOCK, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR)


class SharedFolder:
    """Every method answers one kind of request with the body of the reply, or raises OSError."""

    def __init__(self, below: Path) -> None:
        self.paths: dict[int, Path] = {1: below}
        self.numbers: dict[Path, int] = {below: 1}
        self.methods: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup,
            3: self.getattr,
            4: self.setattr,
            8: self.mknod,
            9: self.mkdir,
            10: self.unlink,
            11: self.rmdir,
            12: lambda node, body: self.rename(node, body, 8),
            13: self.link,
            14: self.open,
            15: self.read,
            16: self.write,
            17: lambda node, body: STATFS,
            18: self.release,
            20: lambda node, body: b"",
            25: lambda node, body: b"",
            26: self.init,
            27: self.opendir,
            28: self.readdir,
            29: lambda node, body: b"",
            30: lambda node, body: b"",
            35: self.create,
            38: lambda node, body: b"",
            45: lambda node, body: self.rename(node, body, 16),
        }

    def answer(self, request: bytes) -> bytes | None:
        length, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode in ANSWERS_NOTHING:
            return None
        error, body = 0, b""
        try:
            method = self.methods.get(opcode)
            if method is None:
                raise OSError(errno.ENOSYS, "")
            body = method(node, request[IN_HEADER.size : length])
        except OSError as problem:
            error = problem.errno or errno.EIO
        return OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique) + body

    def init(self, node: int, body: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 0, 0, LARGEST_WRITE, 1, 0, 0, 0)

    # ---- names -------------------------------------------------------------------------------------------------------

    def child(self, node: int, name: bytes) -> Path:
        return self.paths[node] / os.fsdecode(name.rstrip(b"\0"))

    def entry(self, path: Path) -> bytes:
        found = path.lstat()
        number = self.numbers.setdefault(path, len(self.paths) + 1)
        self.paths[number] = path
        return ENTRY.pack(number, 0, 0, 0, 0, 0) + attributes(found)

    def lookup(self, node: int, body: bytes) -> bytes:
        return self.entry(self.child(node, body))

    def mknod(self, node: int, body: bytes) -> bytes:
        mode = struct.unpack_from("<I", body)[0]
        if stat.S_IFMT(mode) in REFUSED:
            raise OSError(errno.EPERM, "")
        path = self.child(node, body[16:])
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o7777))
        return self.entry(path)

    def mkdir(self, node: int, body: bytes) -> bytes:
        path = self.child(node, body[8:])
        path.mkdir(struct.unpack_from("<I", body)[0] & 0o7777)
        return self.entry(path)

    def unlink(self, node: int, body: bytes) -> bytes:
        self.child(node, body).unlink()
        return b""

    def rmdir(self, node: int, body: bytes) -> bytes:
        self.child(node, body).rmdir()
        return b""

    def link(self, node: int, body: bytes) -> bytes:
        raise OSError(errno.EPERM, "")

    def rename(self, node: int, body: bytes, skip: int) -> bytes:
        if skip == 16 and struct.unpack_from("<I", body, 8)[0]:  # flags of renameat2
            raise OSError(errno.EINVAL, "")
        old, new = body[skip:].split(b"\0")[:2]
        source, target = self.child(node, old), self.child(struct.unpack_from("<Q", body)[0], new)
        source.replace(target)
        number = self.numbers.pop(source, None)
        if number is not None:
            self.numbers[target], self.paths[number] = number, target
        return b""

    # ---- files -------------------------------------------------------------------------------------------------------

    def getattr(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + attributes(self.paths[node].lstat())

    def setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atimensec, mtimensec, _, mode = struct.unpack_from("<IIQQQQQQIIII", body)
        path = self.paths[node]
        if valid & 1:
            path.chmod(mode & 0o7777)
        if valid & 8:
            os.truncate(path, size)
        if valid & 0x30:
            now = path.stat()
            accessed = atime * 10**9 + atimensec if valid & 0x10 else now.st_atime_ns
            modified = mtime * 10**9 + mtimensec if valid & 0x20 else now.st_mtime_ns
            os.utime(path, ns=(accessed, modified))
        return self.getattr(node, body)

    def open(self, node: int, body: bytes) -> bytes:
        flags = struct.unpack_from("<I", body)[0]
        fd = os.open(self.paths[node], (flags & os.O_ACCMODE) | (flags & os.O_TRUNC))
        return struct.pack("<QII", fd, 0, 0)

    def create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        path = self.child(node, body[16:])
        fd = os.open(path, (flags & (os.O_ACCMODE | os.O_EXCL | os.O_TRUNC)) | os.O_CREAT, mode & 0o7777)
        return self.entry(path) + struct.pack("<QII", fd, 0, 0)

    def read(self, node: int, body: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(fd, size, offset)

    def write(self, node: int, body: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(fd, body[40 : 40 + size], offset), 0)

    def release(self, node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    # ---- folders -----------------------------------------------------------------------------------------------------

    def opendir(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        rows = b""
        for place, path in enumerate(sorted(self.paths[node].iterdir())[offset:], offset + 1):
            name = os.fsencode(path.name)
            row = struct.pack("<QQII", 2**32 + place, place, len(name), 0) + name
            row += bytes(-len(row) % 8)
            if len(rows) + len(row) > size:
                break
            rows += row
        return rows


def attributes(found: os.stat_result) -> bytes:
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    seconds, rest = [one // 10**9 for one in times], [one % 10**9 for one in times]
    return ATTR.pack(
        found.st_ino, found.st_size, found.st_blocks, *seconds, *rest,
        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0,
    )  # fmt: skip


def serve(below: str, point: str, kind: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"shared", os.fsencode(point), kind.encode(), 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    folder = SharedFolder(Path(below))
    while True:
        try:
            reply = folder.answer(os.read(device, LARGEST_WRITE + 4096))
            if reply is not None:
                os.write(device, reply)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno not in (errno.ENOENT, errno.EINTR):  # the request was given up
                raise


def why_not() -> str:
    """Why there can be none here; "" when there can."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("nsenter"):
        return "mounting needs Linux, root and nsenter"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"namespaces of mounts are not allowed here: {done.stderr.strip()}"


@contextlib.contextmanager
def shared(below: Path, point: Path, kind: str = "fuse.grpcfuse") -> Iterator[tuple[str, ...]]:
    """The words to put before a command that is to see ``point`` (nobody else does), and to run in the folder above."""
    command = [sys.executable, "-I", __file__, str(below), str(point), kind]
    with subprocess.Popen(
        ["unshare", "--mount", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            assert server.stdout.readline() == "mounted\n"
            enter = ("nsenter", "--mount", "--target", str(server.pid), "--")
            yield (*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(point.parent))
        finally:
            server.stdin.close()


if __name__ == "__main__":
    serve(*sys.argv[1:4])
