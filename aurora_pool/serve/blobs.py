"""Where the contents of files lie: a folder, or anything that fsspec has a URL for."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from aurora_pool.errors import ConfigError

CHUNK = 1 << 20


class Blobs(Protocol):
    """The contents of files, by the files' ids. All methods raise ``OSError`` where the place can't be used."""

    async def put(self, name: str, source: Path) -> None:
        """Take a local file over; it is there as a whole or not at all, and survives a power loss."""
        ...

    async def fetch(self, name: str, target: Path) -> None:
        """Make a local file of the content, which stays if the blob is deleted."""
        ...

    def chunks(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """Read the content from an offset on. Raises ``FileNotFoundError``."""
        ...

    async def delete(self, name: str) -> None:
        """Delete the content, if it is there."""
        ...


def open_blobs(url: str | None, folder: Path) -> Blobs:
    """Open the place: an fsspec URL, or ``folder``. Raises :class:`~aurora_pool.errors.ConfigError`."""
    return FolderBlobs(folder) if url is None else RemoteBlobs(url)


class FolderBlobs:
    """Contents in a folder on this machine, or on one that replicas share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def put(self, name: str, source: Path) -> None:
        """Sync the file and rename it."""
        target = self._folder / name

        def move() -> None:
            with source.open("rb") as file:
                os.fsync(file.fileno())
            source.replace(target)
            sync_folder(self._folder)

        await asyncio.to_thread(move)

    async def fetch(self, name: str, target: Path) -> None:
        """Link the file; copy it where that is not possible."""

        def link() -> None:
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(self._folder / name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(self._folder / name, target)

        await asyncio.to_thread(link)

    async def chunks(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """Read the file."""
        async for chunk in read_file(self._folder / name, start=start):
            yield chunk

    async def delete(self, name: str) -> None:
        """Delete the file."""
        await asyncio.to_thread((self._folder / name).unlink, missing_ok=True)


class RemoteBlobs:
    """Contents in an object store, by fsspec."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise ConfigError(f"{url}: this needs the package fsspec, and the one for its kind of store") from None
        try:
            found = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url}: files can't be kept there: {error}") from error
        self._system: Any = found[0]
        self._root: str = found[1].rstrip("/")

    async def put(self, name: str, source: Path) -> None:
        """Upload the file."""
        await _remotely(self._system.put_file, str(source), self._path(name))
        await asyncio.to_thread(source.unlink, missing_ok=True)

    async def fetch(self, name: str, target: Path) -> None:
        """Download the file."""
        await _remotely(self._system.get_file, self._path(name), str(target))

    async def chunks(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """Read the file piece by piece."""
        file = await _remotely(self._system.open, self._path(name), "rb")
        try:
            if start:
                await _remotely(file.seek, start)
            while chunk := await _remotely(file.read, CHUNK):
                yield chunk
        finally:
            await _remotely(file.close)

    async def delete(self, name: str) -> None:
        """Delete the file."""
        with suppress(FileNotFoundError):
            await _remotely(self._system.rm_file, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


async def _remotely(work: Callable[..., Any], *arguments: Any) -> Any:
    """Ask the store, in a thread. Raises ``OSError`` where it fails: every store has exceptions of its own."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"the store of files failed: {error}") from error


async def read_file(path: Path, end: int | None = None, *, start: int = 0) -> AsyncIterator[bytes]:
    """Read a file from ``start`` to ``end``, in bytes, without holding up the event loop."""
    file = await asyncio.to_thread(path.open, "rb")
    left = None if end is None else end - start
    try:
        if start:
            file.seek(start)
        while left is None or left > 0:
            chunk = await asyncio.to_thread(file.read, CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
    finally:
        file.close()


def sync_folder(folder: Path) -> None:
    """Have the system write a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
