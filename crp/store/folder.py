"""Folders whose contents are reached by descriptor and never through a link: files and folders, and nothing else."""
from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedRandom, BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
    raise ImportError(
        "crp's stores need a system that opens files relative to a folder without following links, such as Linux or "
        "macOS; on Windows, use WSL"
    )

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINK_ERRORS = {errno.ELOOP, errno.EMLINK, errno.ENOTDIR}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}  # not all file systems say so
LARGEST_DENSE = 2 ** 30
DEEPEST_FOLDER = 64


class StoreError(ValueError):
    """A store that is missing, unfinished, damaged, or made with other settings."""


class Folder:
    """A folder that is open. Nothing in it is reached through a link, and of files only regular ones.

    Used as a context, which closes it.

    Parameters
    ----------
    descriptor : int
    *path : Path or str
        Where it was found, in parts, for messages.
    """

    def __init__(self, descriptor: int, *path: Path | str):
        self.descriptor, self._path = descriptor, path

    @property
    def path(self) -> Path:
        """Where it was found."""
        return Path(*self._path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        os.close(self.descriptor)

    def folder(self, name: str) -> Folder:
        """A folder in this one.

        Raises
        ------
        FileNotFoundError
            If there is none.
        StoreError
            If it is a link or a file.
        """
        try:
            descriptor = os.open(name, _READ | os.O_DIRECTORY, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in _LINK_ERRORS:
                raise StoreError(f"{self.path / name} is no folder but {self.kind(name)}") from None
            raise
        return Folder(descriptor, *self._path, name)

    def make(self, name: str) -> Folder:
        """A folder in this one, made if there is none."""
        while True:
            try:
                os.mkdir(name, dir_fd=self.descriptor)
            except FileExistsError:
                pass
            try:
                return self.folder(name)
            except FileNotFoundError:  # another process has removed it just now
                pass

    def read(self, name: str) -> BufferedReader:
        """A file to read.

        Raises
        ------
        FileNotFoundError
            If there is none.
        StoreError
            If it is a link, a folder, a pipe, or anything else that is no file.
        """
        if not stat.S_ISREG(self.status(name).st_mode):
            raise StoreError(f"{self.path / name} is no file but {self.kind(name)}")
        descriptor = os.open(name, _READ, dir_fd=self.descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # it has been replaced just now
            os.close(descriptor)
            raise StoreError(f"{self.path / name} is no file")
        if status.st_size > LARGEST_DENSE and status.st_blocks * 512 < status.st_size // 1000:
            os.close(descriptor)
            raise StoreError(f"{self.path / name} is said to have {status.st_size} bytes, but holds next to none")
        return os.fdopen(descriptor, "rb")

    def create(self, name: str) -> BufferedWriter:
        """A new file to write."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o666, dir_fd=self.descriptor), "wb")

    def extend(self, name: str) -> BufferedRandom:
        """A file that is there, to write to at any place; a StoreError if it is a link or anything else."""
        if not stat.S_ISREG(self.status(name).st_mode):
            raise StoreError(f"{self.path / name} is no file but {self.kind(name)}")
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, dir_fd=self.descriptor), "r+b")

    def write(self, name: str, content: bytes) -> None:
        """Write a new file that is on the disk when this returns."""
        with self.create(name) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def status(self, name: str) -> os.stat_result:
        """What the file system says of a name, links not followed."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Whether there is anything of a name, be it a link that leads nowhere."""
        try:
            self.status(name)
        except FileNotFoundError:
            return False
        return True

    def kind(self, name: str) -> str:
        """What a name stands for, in words."""
        try:
            mode = self.status(name).st_mode
        except FileNotFoundError:
            return "nothing"
        kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe",
                 stat.S_IFSOCK: "a socket"}
        return kinds.get(stat.S_IFMT(mode), "a device")

    def names(self) -> list[str]:
        """All names in the folder, in order."""
        return sorted(os.listdir(self.descriptor))

    def rename(self, name: str, folder: Folder, new_name: str) -> None:
        """Move a file, in the place of one that is there, or a folder, where there is none or an empty one."""
        os.rename(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=folder.descriptor)

    def rename_if_first(self, name: str, folder: Folder, new_name: str) -> None:
        """Move a folder, unless another process was first and has put one there that is not empty."""
        try:
            self.rename(name, folder, new_name)
        except OSError as error:
            if error.errno not in _TAKEN and folder.kind(new_name) != "a folder":
                raise

    def remove(self, name: str) -> None:
        """Remove a file, a link, or a folder with all in it; what is not there, or cannot be removed, is passed by."""
        try:
            if stat.S_ISDIR(self.status(name).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=self.descriptor)
            else:
                os.unlink(name, dir_fd=self.descriptor)
        except (OSError, RecursionError):
            pass

    def sync(self) -> None:
        """Wait until the names in the folder are on the disk."""
        os.fsync(self.descriptor)


@contextmanager
def opened(path: str | Path, *names: str) -> Iterator[Folder]:
    """A folder at a path, and on through names in it; the path itself may lead through links.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If something on the way from the path is a link or a file.
    """
    with ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise StoreError(f"{path} is a file; a store is a folder") from None
        folder = stack.enter_context(Folder(descriptor, path))
        for name in names:
            folder = stack.enter_context(folder.folder(name))
        yield folder


def walk(folder: Folder, depth: int = DEEPEST_FOLDER) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    """Names from a folder to all that is in it and so many deep in it, with their status; others may remove some."""
    for name in folder.names():
        try:
            status = folder.status(name)
            yield (name,), status
            if stat.S_ISDIR(status.st_mode) and depth > 1:
                with folder.folder(name) as below:
                    for names, status in walk(below, depth - 1):
                        yield (name, *names), status
        except FileNotFoundError:
            pass


def reading_errors(error: OSError, path: Any) -> StoreError:
    """What to raise for a file of a store that cannot be read."""
    return StoreError(f"{path} is missing or cannot be read: {error.strerror or error}")
