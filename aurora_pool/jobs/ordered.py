"""A copy of an output in the order of its input."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from aurora_pool.errors import JobError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.files import Compression, compression_of, import_zstandard
from aurora_pool.jobs.records import decode_record
from aurora_pool.jobs.survey import Survey
from aurora_pool.own_files import replacement

_TURN = 4096
"""After how many records other tasks get their turn."""


def ordered_path(output: Path) -> Path:
    """Where the sorted copy goes.

    >>> ordered_path(Path("answers.jsonl.gz")).name
    'answers.ordered.jsonl.gz'
    """
    stem, dot, suffixes = output.name.partition(".")
    return output.with_name(f"{stem}.ordered{dot}{suffixes}")


async def write_ordered(output: Path, survey: Survey) -> Path:
    """Copy the records of ``output`` in the order of the input's lines; those of ids not in the input are left out.

    Takes 8 bytes of memory a line; a compressed output is unpacked into a temporary file first. Other tasks get their
    turns. Raises :class:`~aurora_pool.errors.JobError` if the copy can't be written.
    """
    target = ordered_path(output)
    compression = compression_of(output)
    try:
        with tempfile.TemporaryFile() if compression != "none" else output.open("rb") as text:
            places = await places_of(Lines(output, compression), survey, text if compression != "none" else None)
            with replacement(target, like=output) as file, packed(file, compression) as copy:
                for number, place in enumerate(places):
                    if place:
                        text.seek(place - 1)
                        copy.write(text.readline())
                    if number % _TURN == 0:
                        await asyncio.sleep(0)
    except OSError as error:
        raise JobError(f"{target}: the sorted copy can't be written ({error.strerror})") from error
    return target


async def places_of(lines: Lines, survey: Survey, text: IO[bytes] | None) -> array[int]:
    """Where each input line's record begins, plus 1; 0 for none. On the way, write the lines to ``text``."""
    places = array("Q", bytes(8 * len(survey.todo)))
    offset = 0
    for batch in lines.batches():
        for line in batch:
            record = decode_record(line)
            number = None if record is None else survey.line_of(record.custom_id)
            if number is not None:
                places[number] = offset + 1
            offset += len(line)
        if text is not None:
            text.writelines(batch)
        await asyncio.sleep(0)
    return places


@contextmanager
def packed(file: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    """Compress what is written into ``file`` as told; it is ended well when the block ends."""
    if compression == "gzip":
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
            yield cast("IO[bytes]", packed)
    elif compression == "zstd":
        zstandard = import_zstandard()
        with zstandard.ZstdCompressor(write_checksum=True).stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file
