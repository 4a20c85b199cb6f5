from __future__ import annotations

import asyncio
import io

import pytest

from tests.conformance.client import Server, user


async def test_models(server: Server) -> None:
    body = (await server.get("/v1/models")).json
    assert body["object"] == "list"
    card = body["data"][0]
    assert {"id", "object", "created", "owned_by", "root", "parent", "max_model_len"} <= set(card)
    assert (card["object"], card["owned_by"], card["parent"]) == ("model", "vllm", None)
    assert (await server.get(f"/v1/models/{server.model}")).status == 404


async def test_health_has_no_body_and_no_head(server: Server) -> None:
    reply = await server.get("/health")
    assert (reply.status, reply.text) == (200, "")
    assert (await server.request("HEAD", "/health")).status == 405
    for method in ("GET", "POST"):
        assert (await server.request(method, "/ping")).status == 200


async def test_version_and_load(server: Server) -> None:
    version = (await server.get("/version")).json["version"]
    assert version.split(".")[0].isdigit()
    assert (await server.get("/load")).json == {"server_load": 0}


async def test_what_is_not_there(server: Server) -> None:
    for path in ("/nope", "/v1/nope", "/v1/tokenize", "/sleep"):
        reply = await server.post(path, {})
        assert (reply.status, reply.json) == (404, {"detail": "Not Found"})
    reply = await server.get("/v1/completions")
    assert (reply.status, reply.json) == (405, {"detail": "Method Not Allowed"})


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_body_must_be_json_and_say_so(server: Server, path: str) -> None:
    reply = await server.request("POST", path, data=b'{"prompt": ', headers={"Content-Type": "application/json"})
    assert (reply.status, reply.error["type"]) == (400, "Bad Request")
    reply = await server.request("POST", path, data=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert reply.status == 400
    assert "Unsupported Media Type: Only 'application/json' is allowed" in reply.error["message"]


async def test_tokenize_and_detokenize(server: Server) -> None:
    text = "Hello, wörld! 123"
    body = (await server.post("/tokenize", {"prompt": text, "return_token_strs": True})).json
    assert set(body) == {"count", "max_model_len", "tokens", "token_strs"}
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == server.max_model_len
    plain = (await server.post("/tokenize", {"prompt": text, "add_special_tokens": False})).json
    assert plain["token_strs"] is None
    assert (await server.post("/detokenize", {"tokens": plain["tokens"]})).json == {"prompt": text}


async def test_tokenize_takes_one_prompt_of_any_length(server: Server) -> None:
    assert (await server.post("/tokenize", {"prompt": ["a", "b"]})).error["code"] == 400
    body = (await server.post("/tokenize", {"prompt": " a" * (server.max_model_len + 100)})).json
    assert body["count"] > server.max_model_len


async def test_tokenize_renders_conversations(server: Server) -> None:
    marker = "zqmarkerqz"
    whole = (await server.post("/tokenize", {"messages": [user(marker)]})).json["tokens"]
    text = (await server.post("/detokenize", {"tokens": whole})).json["prompt"]
    before, _, after = text.partition(marker)
    assert before
    assert after
    bare = {"messages": [user(marker)], "add_generation_prompt": False}
    assert len((await server.post("/tokenize", bare)).json["tokens"]) < len(whole)


async def test_unknown_ids_have_no_text(server: Server) -> None:
    assert (await server.post("/detokenize", {"tokens": [99_999_999]})).json == {"prompt": ""}


async def test_metrics_have_these_names(server: Server) -> None:
    await server.complete("a")
    reply = await server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    names = {line.partition("{")[0].partition(" ")[0] for line in reply.text.splitlines() if not line.startswith("#")}
    assert {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting_by_reason",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:request_success_total",
        "vllm:engine_sleep_state",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_sum",
        "http_requests_total",
        "process_start_time_seconds",
    } <= names
    assert f'vllm:num_requests_running{{engine="0",model_name="{server.model}"}}' in reply.text


async def test_metrics_count_what_was_done(server: Server) -> None:
    names = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:request_success_total")
    before = [await server.metric(name) for name in names]

    async def gained() -> list[float]:
        return [await server.metric(name) - earlier for name, earlier in zip(names, before, strict=True)]

    usage = (await server.complete(["One two", "Three"], ignore_eos=True, max_tokens=7)).json["usage"]
    await server.reaches([14, usage["prompt_tokens"], 2], gained)


async def test_an_idle_connection_lives_for_five_seconds(server: Server) -> None:
    """In simulated time to the tenth; a busy machine delays both sides, but no connection ends before its time."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(server.endpoint.host, server.endpoint.port)

    async def ask() -> bytes:
        writer.write(b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(int(size.partition(b":")[2]))

    assert b"version" in await ask()
    await asyncio.sleep(4.9 if server.simulated else 2)
    began = loop.time()
    assert b"version" in await ask()
    async with asyncio.timeout(5.1 if server.simulated else 60):
        assert await reader.read() == b""
    assert loop.time() - began > 4.9
    writer.close()
    await writer.wait_closed()


async def test_a_big_body_is_taken(server: Server) -> None:
    body = io.BytesIO(b'{"prompt": "a", "max_tokens": 1, "padding": "%b"}' % (b"x" * 5_000_000))
    reply = await server.request("POST", "/v1/completions", data=body, headers={"Content-Type": "application/json"})
    assert reply.status == 200
