"""``aurora-pool submit``, ``jobs``, ``fetch`` and ``cancel``: batches on a server, by its URL."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.batch_output import check_output, failure, opened_output
from aurora_pool.cli.console import give, say
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.panels import DISPLAY, INPUT, OUTPUT, QUEUE, SERVER
from aurora_pool.cli.watch import POLL_EVERY, complaint_of, tell_errors, waits_for, watched
from aurora_pool.errors import BadRecord, ConfigError, PoolError
from aurora_pool.terminal import one_line
from aurora_pool.wire.batch_states import ACTIVE
from aurora_pool.wire.errors import shortened

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

UNREADABLE = (ValueError, OverflowError, RecursionError, AttributeError)
"""What a reply raises, where it is read, that is no JSON, too deep, a date of no year, or null instead of an object."""
KEY_VARIABLE = "AURORA_POOL_KEY"

Server = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="AURORA_POOL_SERVER",
        help="The server's URL; the key is in AURORA_POOL_KEY.",
        rich_help_panel=SERVER,
    ),
]
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id.")]


def submit(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="OpenAI Batch JSONL.")],
    wait_file: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.0, help="Seconds to wait for FILE to appear.", rich_help_panel=INPUT),
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="With --watch, where the records go at the end; - is standard output.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    server: Server = "http://127.0.0.1:8080",
    window: Annotated[
        str, typer.Option(metavar="TIME", help="How long the batch may take, as 24h or 7d.", rich_help_panel=QUEUE)
    ] = "24h",
    priority: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=-100,
            max=100,
            help="Higher ones go first; above 0 for administrators.",
            rich_help_panel=QUEUE,
        ),
    ] = 0,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress until the batch has ended.", rich_help_panel=DISPLAY)
    ] = False,
) -> None:
    """Upload a file and queue it as a batch; prints the batch's id.

    Example:
      aurora-pool submit batch.jsonl --watch -o answers.jsonl
    """
    if output is not None and not watch:
        raise ConfigError("--output: without --watch, nothing waits for the answers; aurora-pool fetch gets them")
    endpoint = _endpoint_of(_wait_for(source, wait_file))
    if output is not None:
        check_output(output, source)
    batch = None
    try:
        with _client(server) as client, source.open("rb") as content:
            file = client.files.create(file=content, purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id,
                endpoint=endpoint,  # type: ignore[arg-type] # any string: the server decides
                completion_window=window,  # type: ignore[arg-type] # the same
                metadata={"filename": source.name[:512]},
                extra_body={"priority": priority} if priority else None,
            )
            (say if str(output) == "-" else give)(one_line(batch.id))
            if watch:
                batch = watched(client, batch)
                raise typer.Exit(_code_of(batch) if output is None else _fetch(client, batch, output))
    except PoolError as error:
        if batch is not None:
            error.add_note(f"the server keeps the batch: aurora-pool fetch {batch.id} -o FILE")
        raise


def jobs(
    server: Server = "http://127.0.0.1:8080",
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="How many, the newest first.", rich_help_panel=DISPLAY)
    ] = 20,
) -> None:
    """List batches, a line each.

    Example:
      aurora-pool jobs --server http://login01:8080
    """
    with _client(server) as client:
        for batch in client.batches.list(limit=limit).data:
            counts = batch.request_counts
            done = f"{counts.completed + counts.failed}/{counts.total}" if counts else ""
            created = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch.created_at))
            failed = f"{counts.failed} failed" if counts and counts.failed else ""
            told = "  ".join(filter(None, (failed, waits_for(batch))))
            give(one_line(f"{batch.id}  {created}  {batch.status:<11} {done:>15}  {told}".rstrip()))


def fetch(
    batch_id: BatchId,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the records go, failed ones included; - is standard output.",
            rich_help_panel=OUTPUT,
        ),
    ],
    server: Server = "http://127.0.0.1:8080",
) -> None:
    """Download what a batch has answered, also while it runs.

    Example:
      aurora-pool fetch batch_7c0e -o answers.jsonl
    """
    check_output(output)
    with _client(server) as client:
        batch = client.batches.retrieve(batch_id)
        tell_errors(batch)
        raise typer.Exit(_fetch(client, batch, output))


def cancel(batch_id: BatchId, server: Server = "http://127.0.0.1:8080") -> None:
    """Cancel a batch; what is answered is kept.

    Example:
      aurora-pool cancel batch_7c0e
    """
    with _client(server) as client:
        give(one_line(client.batches.cancel(batch_id).status))


@contextmanager
def _client(server: str) -> Iterator[openai.OpenAI]:
    """Open a client, and word its errors as this package's, whatever the server says."""
    import openai

    from aurora_pool.runtime.credentials import read_secret

    if not _is_url(server):
        raise ConfigError(f"--server: expected a URL such as http://login01:8080, got {server!r}")
    key = read_secret(KEY_VARIABLE) if os.environ.get(KEY_VARIABLE, "").strip() else None
    base_url = f"{server.rstrip('/').removesuffix('/v1')}/v1"
    with openai.OpenAI(base_url=base_url, api_key=key or "none", _strict_response_validation=True) as client:
        try:
            yield client
        except openai.APIConnectionError as error:
            raise PoolError(f"{server}: can't be reached ({error.__cause__ or error})") from error
        except openai.APIStatusError as error:
            if error.status_code == 401 and key is None:
                raise ConfigError(f"{server}: it asks for a key, and {KEY_VARIABLE} is not set") from error
            kind = PoolError if error.status_code >= 500 else ConfigError
            raise kind(f"{server}: {complaint_of(error)}") from error
        except (openai.APIResponseValidationError, *UNREADABLE) as error:
            raise PoolError(f"{server}: the reply can't be read ({shortened(str(error))})") from error


def _is_url(text: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _wait_for(source: Path, within: float) -> Path:
    deadline = time.monotonic() + within
    while not source.exists():
        if time.monotonic() >= deadline:
            raise BadRecord("the input can't be read (no such file)", path=source)
        time.sleep(min(POLL_EVERY, within))
    return source


def _endpoint_of(source: Path) -> str:
    """Read from the first line which endpoint the batch is for; the server checks all of them."""
    import msgspec

    try:
        with source.open("rb") as file:
            line = next((line for line in file if line.strip()), b"")
    except OSError as error:
        raise BadRecord(f"the input can't be read ({error.strerror})", path=source) from error
    try:
        url = msgspec.json.decode(line).get("url")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        url = None
    if not isinstance(url, str):
        if line.startswith(codecs.BOM_UTF8):
            raise BadRecord("it begins with a byte order mark; save it as UTF-8 without one", path=source, line=1)
        raise BadRecord(
            "expected OpenAI Batch JSONL: an object with 'custom_id', 'url' and 'body'", path=source, line=1
        )
    return url


def _fetch(client: openai.OpenAI, batch: Batch, output: Path) -> ExitCode:
    """Write a batch's records to a file, which is there as a whole or not at all; one that was refused has none."""
    if batch.status == "failed":
        return ExitCode.BAD_INPUT
    from urllib.parse import quote

    import httpx2

    names = [name for name in (batch.output_file_id, batch.error_file_id) if name]
    running = batch.status in ACTIVE
    paths = (
        [f"batches/{quote(batch.id, '')}/output"] if running else [f"files/{quote(name, '')}/content" for name in names]
    )
    try:
        with opened_output(output) as file:
            for path in paths:
                # By hand: the package's client has no call for the first, and this one is never whole in memory.
                with httpx2.stream("GET", client.base_url.join(path), headers=client.auth_headers) as reply:
                    if reply.status_code != 200:
                        raise PoolError(f"{client.base_url}{path}: status {reply.status_code}")
                    for chunk in reply.iter_bytes(1 << 20):
                        file.write(chunk)
    except httpx2.HTTPError as error:
        raise PoolError(f"{client.base_url}: the download broke off ({error})") from error
    except OSError as error:
        raise failure(output, error) from error
    return _code_of(batch)


def _code_of(batch: Batch) -> ExitCode:
    """Tell whether all requests of a batch have an answer: not while it runs, nor if it was cancelled too early."""
    if batch.status == "failed":
        return ExitCode.BAD_INPUT
    counts = batch.request_counts
    answered = batch.status == "completed" if counts is None else counts.completed == counts.total > 0
    return ExitCode.DONE if answered else ExitCode.SOME_FAILED
