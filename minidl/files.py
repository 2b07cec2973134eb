"""Where data files live, and how they get there: search folders, checked downloads, atomic writes."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import secrets
import struct
import sys
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from minidl.errors import UserError


class CorruptFileError(UserError, ValueError):
    """A data file is truncated, damaged, or not what it should be. The message names the file."""


# What is the server's or the network's fault; a full disk, say, is not, and no other address would help.
_DOWNLOAD_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    CorruptFileError,
)


def cache_folder() -> Path:
    """``$MINIDL_CACHE``, else ``$XDG_CACHE_HOME/minidl``, else ``~/.cache/minidl``."""
    if os.environ.get("MINIDL_CACHE"):
        return Path(os.environ["MINIDL_CACHE"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path is to be ignored.
    return (Path(cache) if cache and os.path.isabs(cache) else Path.home() / ".cache") / "minidl"


def data_folders(root: str | os.PathLike | None = None) -> list[Path]:
    """Folders to search for data, best first.

    ``root`` alone where it is given; otherwise the folder in ``MINIDL_DATA`` and then the cache folder.
    """
    if root is not None:
        return [Path(root).expanduser()]
    folders = [Path(os.environ["MINIDL_DATA"]).expanduser()] if os.environ.get("MINIDL_DATA") else []
    return [*folders, cache_folder()]


def find(candidates: list[Path]) -> Path | None:
    """The first of ``candidates`` that exists, or None."""
    return next((path for path in candidates if path.exists()), None)


def missing(what: str, looked_at: list[Path], hint: str = "") -> FileNotFoundError:
    """The error for data that is nowhere: what, where it was looked for, and how to get it."""
    places = "\n".join(f"  {path}" for path in looked_at)
    advice = "Give its place with root=PATH (command line: --data PATH) or the environment variable MINIDL_DATA"
    return FileNotFoundError(f"{what} not found. Looked at:\n{places}\n{advice}{', ' + hint if hint else ''}.")


@contextmanager
def atomic_write(path: str | os.PathLike, parents: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary binary file next to ``path`` that takes its name once written and flushed.

    ``path`` holds either its old content or all of the new one, whatever happens in between; an OSError names it.
    ``parents`` creates the folders above it.
    """
    path = Path(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: it makes files that only their owner can read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with naming(path):
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


_LEFTOVER = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


def clear_leftovers(folder: str | os.PathLike) -> None:
    """Delete what :func:`atomic_write` left in ``folder`` when its process was killed. Only for who owns the folder."""
    for path in Path(folder).iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


# What zipfile raises for a hostile or damaged file, besides BadZipFile: RuntimeError if it is encrypted,
# NotImplementedError for an unknown compression, and others from the header's fields.
UNZIP_ERRORS = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError, struct.error,
    zlib.error,
)  # fmt: skip


def unpacked_limit(packed: int) -> int:
    """The bytes that a file of ``packed`` bytes may unpack to. Real data does not shrink to a two-hundredth; a file
    that is made to fill the memory does."""
    return (64 << 20) + 200 * packed


class Unpacked:
    """A stream of unpacked bytes that ends with CorruptFileError where they become too many for the packed file."""

    def __init__(self, stream: Any, path: str | os.PathLike) -> None:
        self.stream, self.path = stream, path
        self.left = unpacked_limit(os.path.getsize(path))

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, all that are left if it is negative."""
        content = self.stream.read(self.left + 1 if size < 0 else size)
        self.left -= len(content)
        if self.left < 0:
            raise CorruptFileError(f"{self.path}: unpacks to far more than a file of its size holds")
        return content


def zip_member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    """What is in a member of a zip file, ``name`` in errors. Raises CorruptFileError if it is damaged, or packed in a
    way that costs much memory."""
    try:
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CorruptFileError(f"{name}: compressed by method {info.compress_type}; only deflated members are read")
        if info.file_size > unpacked_limit(info.compress_size):
            raise CorruptFileError(f"{name}: unpacks to far more than a file of its size holds")
        return archive.read(info)
    except UNZIP_ERRORS as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"{name}: cannot be unpacked ({error})") from error


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Make an OSError that is raised inside say which file it is about: a full disk's does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


class InUseError(UserError, RuntimeError):
    """A folder that one process at a time may write to is in use."""


_holders: dict[Path, tuple[int, int, BinaryIO]] = {}  # folder -> thread, how often it entered, the open lock file
_holding = threading.Lock()


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Inside, no other process and no other thread gets past here for the same ``folder``.

    The lock is the operating system's, on the file ``.lock`` in the folder, and ends with the process, however that
    ends. Child processes do not share it. The thread that has it may enter again. Raises InUseError if another has it.
    """
    path = Path(folder).resolve()
    me = threading.get_ident()
    with _holding:
        thread, entered, file = _holders.get(path, (me, 0, None))
        if thread != me:
            raise InUseError(f"{folder} is in use by another thread")
        if file is None:
            file = open(path / ".lock", "ab")  # noqa: SIM115
            try:
                _lock(file)
            except OSError:
                file.close()
                raise InUseError(f"{folder} is in use: another process is training there") from None
        _holders[path] = me, entered + 1, file
    try:
        yield
    finally:
        with _holding:
            if entered:
                _holders[path] = me, entered, file
            else:
                del _holders[path]
                file.close()


def _lock(file: BinaryIO) -> None:
    """Lock an open file for this process. Raises OSError if another has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def download(
    urls: str | tuple[str, ...],
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file from the first of ``urls`` that gives it, check it, and put it at ``path``.

    The file appears under its name only when complete and checked. A server that cannot be reached, cuts the
    transfer short or sends something else passes the turn to the next address.

    Raises:
        ConnectionError: no address gave the file; the message lists every reason.
    """
    urls = (urls,) if isinstance(urls, str) else tuple(urls)
    expected = {name: digest for name, digest in (("sha256", sha256), ("md5", md5)) if digest}
    failures = []
    for url in urls:
        print(f"Downloading {url} to {path}", file=sys.stderr)
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response, atomic_write(path) as file:
                _copy_checked(response, file, expected)
            return Path(path)
        except _DOWNLOAD_ERRORS as error:
            failures.append(f"  {url}: {error}")
    raise ConnectionError(f"could not download {Path(path).name}:\n" + "\n".join(failures))


def _copy_checked(response: Any, file: BinaryIO, expected: dict[str, str]) -> None:
    digests = {name: hashlib.new(name) for name in expected}
    length, received = response.headers.get("Content-Length"), 0
    while chunk := response.read(1 << 20):
        received += len(chunk)
        file.write(chunk)
        for digest in digests.values():
            digest.update(chunk)
    if length is not None and received != int(length):
        raise CorruptFileError(f"the transfer ended after {received} of {length} bytes")
    for name, digest in digests.items():
        if digest.hexdigest() != expected[name]:
            raise CorruptFileError(
                f"wrong {name}: got {digest.hexdigest()}, expected {expected[name]} ({received} bytes received)"
            )
