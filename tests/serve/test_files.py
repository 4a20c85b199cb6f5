"""Files, as the openai package's own client sees them."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from sqlalchemy import insert, update

from aurora_pool.serve.blobs import Blobs, FolderBlobs, RemoteBlobs
from aurora_pool.serve.files import FilesApi
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import files
from tests.serve.running import ended, jsonl, line, records, running, submit, until


async def test_a_file_goes_in_and_comes_out(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    async with running(tmp_path) as run:
        created = await run.client.files.create(file=("../odd name.jsonl", content), purpose="batch")
        assert (created.object, created.filename, created.bytes, created.purpose) == (
            "file",
            "odd name.jsonl",
            3 << 20,
            "batch",
        )
        assert created.expires_at == created.created_at + 30 * 86400
        assert (await run.client.files.retrieve(created.id)) == created
        assert (await run.client.files.content(created.id)).content == content
        assert (await run.client.files.wait_for_processing(created.id)).status == "processed"
        deleted = await run.client.files.delete(created.id)
        assert (deleted.id, deleted.deleted) == (created.id, True)
        for call in (run.client.files.retrieve, run.client.files.content, run.client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(created.id)
        assert not list((tmp_path / "files").iterdir())
        assert not list((tmp_path / "incoming").iterdir())


async def test_files_are_listed_by_pages(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        created = [(await run.client.files.create(file=(f"{i}.jsonl", b"x"), purpose="batch")).id for i in range(5)]
        assert [each.id async for each in run.client.files.list(limit=2, order="asc")] == created
        assert [each.id async for each in run.client.files.list(limit=2)] == created[::-1]
        assert [each.id async for each in run.client.files.list(purpose="batch_output")] == []
        with pytest.raises(openai.BadRequestError):
            await run.client.files.list(order="sideways")  # type: ignore[arg-type]


async def test_expiry(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        created = await run.client.files.create(
            file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert created.expires_at == created.created_at + 3600
        for bad in ({"anchor": "created_at", "seconds": 5}, {"anchor": "birth", "seconds": 3600}):
            expiry: Any = bad
            with pytest.raises(openai.BadRequestError):
                await run.client.files.create(file=("a.jsonl", b"x"), purpose="batch", expires_after=expiry)
    storage = Storage(f"sqlite:///{tmp_path / 'serve.db'}")
    async with storage.write() as connection:
        await connection.execute(update(files).values(expires_at=int(time.time()) - 1))
    await storage.close()
    async with running(tmp_path) as run:
        with pytest.raises(openai.NotFoundError):
            await run.client.files.retrieve(created.id)


async def test_what_is_no_upload_is_refused_in_openais_shape(tmp_path: Path) -> None:
    def form(**fields: Any) -> aiohttp.FormData:
        data = aiohttp.FormData()
        for name, value in fields.items():
            data.add_field(name, value, filename="f" if name == "file" else None)
        return data

    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    async with running(tmp_path, upload_bytes=1000) as run:
        attempts: list[tuple[dict[str, Any], int]] = [
            ({"json": {"purpose": "batch"}}, 400),
            ({"data": form(purpose="batch", other="x")}, 400),
            ({"data": form(file=b"x")}, 400),
            ({"data": form(file=b"x", purpose="poetry")}, 400),
            ({"data": form(file=b"x" * 1001, purpose="batch")}, 413),
            ({"data": form(purpose="b" * 9000, file=b"x")}, 400),
            ({"data": b"--x\r\nnonsense", "headers": boundary}, 400),
            ({"data": b"", "headers": boundary}, 400),
            ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ]
        for sent, status in attempts:
            async with run.http.post(f"{run.server.address}/v1/files", **sent) as reply:
                assert reply.status == status, sent
                assert set((await reply.json())["error"]) == {"message", "type", "param", "code"}
        assert not list((tmp_path / "incoming").iterdir())


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.server.port)
        writer.write(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 100000\r\n\r\n--x\r\nContent-Disposition: form-data; name=file; filename=f\r\n\r\n"
            + b"y"
            * 999
        )
        await writer.drain()
        incoming = tmp_path / "incoming"
        await until(lambda: list(incoming.iterdir()))
        writer.close()
        await until(lambda: not list(incoming.iterdir()))
        assert reader is not None


async def test_uploads_and_downloads_take_constant_memory(tmp_path: Path) -> None:
    size = 96 << 20
    piece = b"x" * (1 << 20)

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    async with running(tmp_path) as run:
        await run.client.files.create(file=("warm.jsonl", piece), purpose="batch")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        data = aiohttp.FormData()
        data.add_field("purpose", "batch")
        data.add_field("file", content(), filename="big.jsonl")
        async with run.http.post(f"{run.server.address}/v1/files", data=data) as reply:
            created = await reply.json()
        assert created["bytes"] == size
        got = 0
        async with run.http.get(f"{run.server.address}/v1/files/{created['id']}/content") as reply:
            async for chunk in reply.content.iter_any():
                got += len(chunk)
        assert got == size
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown < size // 3


@pytest.fixture(params=["folder", "remote"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return FolderBlobs(tmp_path / "blobs")
    pytest.importorskip("fsspec")
    return RemoteBlobs(f"memory://{tmp_path.name}")


async def test_blobs(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    await blobs.put("a", source)
    assert not source.exists()
    assert b"".join([chunk async for chunk in blobs.chunks("a")]) == b"content"
    target = tmp_path / "target"
    await blobs.fetch("a", target)
    await blobs.delete("a")
    await blobs.delete("a")
    assert target.read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        await blobs.fetch("a", target)
    with pytest.raises(FileNotFoundError):
        await anext(aiter(blobs.chunks("a")))


async def test_files_and_results_lie_in_s3(bucket: str, tmp_path: Path) -> None:
    async with running(tmp_path, files=f"{bucket}/batches") as run:
        lines = [line("a"), line("b")]
        done = await ended(run.client, await submit(run.client, lines))
        assert done.status == "completed", done.errors
        assert {record["custom_id"] for record in await records(run.client, done.output_file_id)} == {"a", "b"}
        assert (await run.client.files.content(done.input_file_id)).content == jsonl(lines)
        await run.client.files.delete(done.input_file_id)
        with pytest.raises(openai.NotFoundError):
            await run.client.files.content(done.input_file_id)
        assert not list((tmp_path / "files").glob("*"))


async def test_a_store_that_is_down_is_told_and_keeps_no_blob_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem

    class Unreachable(Exception):
        """As botocore's, it is no ``OSError``."""

    def fail(*_: object, **__: object) -> None:
        raise Unreachable("could not connect")

    async with running(tmp_path, files=f"memory://{tmp_path.name}") as run:
        created = await run.client.files.create(file=("a.jsonl", b"content"), purpose="batch")
        with monkeypatch.context() as down:
            for name in ("open", "put_file", "rm_file"):
                down.setattr(memory, name, fail)
            asked = (
                run.client.files.content(created.id),
                run.client.files.create(file=("b.jsonl", b"content"), purpose="batch"),
                run.client.files.delete(created.id),
            )
            for each in asked:
                with pytest.raises(openai.InternalServerError, match="storage") as caught:
                    await each
                assert caught.value.status_code == 503
        assert (await run.client.files.content(created.id)).content == b"content"
        await run.client.files.delete(created.id)
        assert not [path for path in memory.store if created.id in path]


async def test_an_upload_that_can_not_be_noted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Storage) -> Any:
        raise OSError("the disk is full")

    async with running(tmp_path) as run:
        with monkeypatch.context() as full:
            full.setattr(Storage, "write", fail)
            with pytest.raises(openai.InternalServerError, match="storage"):
                await run.client.files.create(file=("a.jsonl", b"content"), purpose="batch")
        assert not list((tmp_path / "files").iterdir())


class _Stays(FolderBlobs):
    async def delete(self, name: str) -> None:
        raise OSError("the disk is read-only")


async def test_an_expired_file_is_deleted_when_the_store_is_back(tmp_path: Path) -> None:
    options = ServerOptions(data=tmp_path)
    storage = Storage(options.database_url)
    await storage.open()
    source, blobs = tmp_path / "source", FolderBlobs(tmp_path / "files")
    source.write_bytes(b"content")
    await blobs.put("file-1", source)
    values = {"id": "file-1", "user": "ann", "filename": "a", "purpose": "batch", "bytes": 7, "created_at": 1}
    async with storage.write() as connection:
        await connection.execute(insert(files).values(**values, expires_at=2))
    with pytest.raises(OSError, match="read-only"):
        await FilesApi(storage, _Stays(tmp_path / "files"), tmp_path / "incoming", options).sweep()
    api = FilesApi(storage, blobs, tmp_path / "incoming", options)
    assert (await api.sweep(), await api.sweep()) == (1, 0)
    assert not list((tmp_path / "files").iterdir())
    await storage.close()
