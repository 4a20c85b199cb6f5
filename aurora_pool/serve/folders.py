"""The folder of each batch: its hold on the input, and its journal.

A journal is named by the lease under which it is written. Who takes a batch over copies the journal of the lease before
into one of its own: a process that was believed dead and wakes up goes on writing to the old file, which nobody reads.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

from aurora_pool.serve.blobs import Blobs, sync_folder

_JOURNAL = re.compile(r"journal-(\d+)\.jsonl")
_TAIL = 1 << 20


class BatchFolders:
    """Folders of batches below one folder, which replicas share."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs
        root.mkdir(parents=True, exist_ok=True)

    def input_of(self, batch_id: str) -> Path:
        """Where the batch's input is."""
        return self._root / batch_id / "input.jsonl"

    def has_lost(self, batch_id: str) -> bool:
        """Whether a batch's input is gone, though the folder of all batches is there: no disk that comes back later."""
        return self._root.is_dir() and not self.input_of(batch_id).exists()

    async def take_input(self, batch_id: str, file_id: str) -> None:
        """Get the input, as a link or a copy. Raises ``FileNotFoundError`` where the file is gone."""
        target = self.input_of(batch_id)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        fresh = target.with_suffix(".fetched")
        await self._blobs.fetch(file_id, fresh)
        await asyncio.to_thread(fresh.replace, target)

    def work_file(self, batch_id: str, name: str) -> Path:
        """A place for a file that is being made."""
        return self._root / batch_id / name

    async def take_journal(self, batch_id: str, epoch: int) -> Path:
        """Give the journal of this lease, which begins with what the last one had written."""
        return await asyncio.to_thread(self._take_journal, batch_id, epoch)

    async def journal_so_far(self, batch_id: str) -> tuple[Path | None, int]:
        """Give the newest journal, and how many bytes of it are whole lines."""
        return await asyncio.to_thread(self._whole_lines, batch_id)

    async def drop(self, batch_id: str) -> None:
        """Delete the folder of a batch that has ended."""
        await asyncio.to_thread(shutil.rmtree, self._root / batch_id, ignore_errors=True)

    def _journals(self, batch_id: str) -> dict[int, Path]:
        folder = self._root / batch_id
        found = {int(match[1]): path for path in folder.iterdir() if (match := _JOURNAL.fullmatch(path.name))}
        return dict(sorted(found.items()))

    def _take_journal(self, batch_id: str, epoch: int) -> Path:
        journals = self._journals(batch_id)
        own = self._root / batch_id / f"journal-{epoch}.jsonl"
        earlier = [path for number, path in journals.items() if number < epoch]
        if not own.exists() and earlier:
            fresh = own.with_suffix(".copied")
            shutil.copyfile(earlier[-1], fresh)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(own)
            sync_folder(own.parent)
        for path in earlier:
            path.unlink(missing_ok=True)
        return own

    def _whole_lines(self, batch_id: str) -> tuple[Path | None, int]:
        try:
            journals = self._journals(batch_id)
        except FileNotFoundError:
            return None, 0
        if not journals:
            return None, 0
        path = list(journals.values())[-1]
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            at = size
            while at:
                step = min(_TAIL, at)
                file.seek(at - step)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    return path, at - step + newline + 1
                at -= step
        return path, 0
