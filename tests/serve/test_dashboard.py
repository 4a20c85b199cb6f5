"""The dashboard in a real browser: each page, an upload to a finished batch, a dead agent, hostile output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright, expect

from aurora_pool import ConfigError
from aurora_pool.serve import rendering
from aurora_pool.serve.proxies import believe, parse_networks
from aurora_pool.testing import AgentProfile
from tests.browser import CHROMIUM, needs_browser
from tests.serve.running import MODEL, Running, ended, jsonl, line, make_keys, running, submit, until

PATIENCE = 60_000
"""Milliseconds that the browser waits for what a page shows, on a machine that does much else."""

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages show soon what has changed."""
    monkeypatch.setattr(rendering, "LIVE_EVERY", 0.2)


def in_the_browser(test: Any) -> Any:
    """Mark a test that needs the browser, which one loop starts for all of them."""
    return needs_browser(pytest.mark.asyncio(loop_scope="module")(pytest.mark.usefixtures("live")(test)))


@asynccontextmanager
async def browsing(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """Open a page, and see that it breaks no rule of its own: no error of a script, nothing that the policy stopped."""
    problems: list[str] = []
    page = await browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Policy" in said.text else None)
    try:
        yield page
        assert not problems
        assert await page.title() != "owned"
    finally:
        await page.close()


async def failing(run: Running) -> Any:
    """Run a batch with an answer that is hostile, and a request that is refused."""
    lines = [line("good", HOSTILE, max_tokens=200), line("refused", temperature=-1.0), line(HOSTILE)]
    return await ended(run.client, await submit(run.client, lines, metadata={"filename": HOSTILE, "note": HOSTILE}))


@in_the_browser
async def test_each_page_shows_what_it_is_for_and_runs_nothing_of_a_model(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as run, browsing(browser) as page:
        batch = await failing(run)
        await page.goto(run.server.address)
        await expect(page.get_by_role("status")).to_contain_text("2 of 2 agents in service")
        await expect(page.locator("tr.agent")).to_have_count(2)
        await expect(page.locator("thead")).to_contain_text("Prefix hits")
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await page.get_by_role("link", name=HOSTILE).click()
        await expect(page.get_by_role("status")).to_contain_text("completed")
        await expect(page.locator("main")).to_contain_text(f"{HOSTILE}")
        await page.get_by_role("link", name="rejected").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.goto(f"{run.server.address}/ui/jobs/{batch.id}/records")
        await expect(page.locator("tbody tr")).to_have_count(3)
        await page.get_by_label("Text").fill("you SAID: <script>")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.get_by_role("link", name="good").click()
        await expect(page.locator("pre.answer")).to_have_text(f"You said: {HOSTILE}")
        await page.get_by_role("link", name="Charts").click()
        await expect(page.locator(".uplot")).to_have_count(4)
        await page.get_by_role("link", name="Playground").click()
        await page.get_by_label("Message", exact=True).fill(HOSTILE)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#told")).to_contain_text("Done in")
        await expect(page.locator("#answer")).to_contain_text(HOSTILE[:30])


@in_the_browser
async def test_an_upload_becomes_a_finished_batch_on_a_phone(tmp_path: Path, browser: Browser) -> None:
    async with (
        running(tmp_path) as run,
        browsing(browser, viewport={"width": 360, "height": 700}, color_scheme="dark") as page,
    ):
        await page.goto(f"{run.server.address}/ui/upload")
        await page.get_by_label("File").set_input_files(
            {"name": "in.jsonl", "mimeType": "application/jsonl", "buffer": jsonl(line(f"r{i}") for i in range(20))}
        )
        await page.get_by_role("button", name="Upload").click()
        await expect(page.get_by_role("status")).to_contain_text("completed")  # the page was not loaded again
        await expect(page.locator(".progress")).to_contain_text("20 / 20")
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download answers").click()
        assert len((await (await downloading.value).path()).read_bytes().splitlines()) == 20
        for path in ("", "jobs", "charts", "playground", "upload", "keys"):
            await page.goto(f"{run.server.address}/ui/{path}")
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path


@in_the_browser
async def test_errors_of_a_file_are_shown_by_line(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as run, browsing(browser) as page:
        await page.goto(f"{run.server.address}/ui/upload")
        content = jsonl([line("a")]) + b'{"custom_id": \n' + jsonl([{**line("b"), "method": HOSTILE}])
        await page.get_by_label("File").set_input_files(
            {"name": "in.jsonl", "mimeType": "application/jsonl", "buffer": content}
        )
        await page.get_by_role("button", name="Upload").click()
        await expect(page.locator("table.errors tbody tr")).to_have_count(2)
        rows = await page.locator("table.errors tbody tr").all_inner_texts()
        assert [row.split()[:2] for row in rows] == [["2", "invalid_json_line"], ["3", "invalid_method"]]


@in_the_browser
async def test_a_dead_agent_turns_red_and_a_lost_server_is_told(tmp_path: Path, browser: Browser) -> None:
    async with browsing(browser) as page:
        async with running(tmp_path) as run:
            await page.goto(f"{run.server.address}/ui/")
            dead = page.locator(f"tr[id='agent-{run.fleet.endpoints[1]}']")
            await expect(dead.locator(".badge")).to_have_text("in service")
            green = await dead.locator(".badge").evaluate("each => getComputedStyle(each).color")
            run.fleet.agents[1].die()
            work = [run.client.completions.create(model=MODEL, prompt=f"p{i}", max_tokens=4) for i in range(8)]
            await asyncio.gather(*work)
            await expect(dead.locator(".badge")).to_have_text("out")
            assert await dead.locator(".badge").evaluate("each => getComputedStyle(each).color") != green
            await expect(dead.locator(".why")).not_to_be_empty()
            await expect(page.get_by_role("status")).to_contain_text("1 of 2 agents in service")
        await expect(page.get_by_role("alert")).to_contain_text("can't be reached")


@in_the_browser
async def test_jobs_are_paused_resumed_and_cancelled_by_keyboard(tmp_path: Path, browser: Browser) -> None:
    slow = AgentProfile(slots=2, median_length=400.0, speed=0.5)
    async with running(tmp_path, profile=slow) as run, browsing(browser) as page:
        batch = await submit(run.client, [line(f"r{i}") for i in range(200)])
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.goto(f"{run.server.address}/ui/jobs/{batch.id}")
        for name, status in (("Pause", "paused"), ("Resume", "in progress"), ("Cancel", "cancel")):
            await page.get_by_role("button", name=name).focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("status")).to_contain_text(status)
        await expect(page.get_by_role("status")).to_contain_text("cancelled")


@in_the_browser
async def test_keys_are_asked_for_made_and_revoked(tmp_path: Path, browser: Browser) -> None:
    root, ann = await make_keys(tmp_path, "root", "ann")
    async with running(tmp_path) as run, browsing(browser) as page:
        await page.goto(f"{run.server.address}/ui/jobs")
        await page.get_by_label("Key").fill("ap-wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert").first).to_contain_text("Nobody has this key")
        await page.get_by_label("Key").fill(root)
        await page.get_by_role("button", name="Log in").click()
        [cookie] = await page.context.cookies()
        assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == ("/ui", True, "Strict")
        await page.get_by_role("link", name="Keys").click()
        await page.get_by_label("User").first.fill("bob")
        await page.get_by_role("button", name="Make a key").click()
        created = await page.locator("#new-key").inner_text()
        assert (await run.client_of(created).models.list()).data
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.get_by_role("button", name="Revoke the key of bob").click()
        await expect(page.locator("tr", has_text="bob")).to_contain_text("revoked")
        await page.get_by_role("button", name="Log out").click()
        await page.get_by_label("Key").fill(ann)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("link", name="Fleet")).to_be_visible()
        assert not await page.get_by_role("link", name="Keys").count()
        reply = await page.goto(f"{run.server.address}/ui/keys")
        assert reply is not None
        assert reply.status == 403


async def test_pages_need_a_key_and_come_under_a_strict_policy(tmp_path: Path) -> None:
    [ann, bob] = await make_keys(tmp_path, "ann", "bob")
    async with running(tmp_path) as run:
        batch = await ended(run.client_of(ann), await submit(run.client_of(ann), [line("a")]))
        for path in ("", "jobs", f"jobs/{batch.id}", "charts", "playground", "upload", "keys", "nowhere"):
            async with run.http.get(f"{run.server.address}/ui/{path}", allow_redirects=False) as reply:
                assert (reply.status, reply.headers["Location"]) == (303, "../login" if "/" in path else "./login"), (
                    path
                )
        cookie = {"Cookie": f"aurora_pool_key={bob}"}
        for path in (f"jobs/{batch.id}", f"jobs/{batch.id}/records", f"files/{batch.output_file_id}/content"):
            async with run.http.get(f"{run.server.address}/ui/{path}", headers=cookie) as reply:
                assert reply.status == 404, path
                policy = reply.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
        cookie["Origin"] = "https://evil.example"
        async with run.http.post(f"{run.server.address}/ui/keys", headers=cookie, data={"user": "eve"}) as reply:
            assert reply.status == 403


async def test_the_page_of_keys_shows_shares_and_limits(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        url, form = f"{run.server.address}/ui/keys", {"user": "eve", "weight": "2", "batches_queued": "7"}
        async with run.http.post(url, data={**form, "tokens_per_day": "0"}) as reply:
            assert (reply.status, "Tokens per day: expected a whole number above 0" in await reply.text()) == (
                400,
                True,
            )
        async with run.http.post(url, data={**form, "tokens_per_day": "none"}) as reply:
            assert reply.status == 200
            assert "weight 2, tokens per day: none, batches queued: 7" in await reply.text()


async def test_only_named_proxies_are_believed(tmp_path: Path) -> None:
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "pool.example", "Origin": "https://pool.example"}
    for trusted, status in ((("10.0.0.0/8",), 403), (("127.0.0.0/8", "::1"), 303)):
        async with running(tmp_path, trusted_proxies=trusted, no_auth=True) as run:
            url = f"{run.server.address}/ui/login"
            async with run.http.post(url, headers=told, data={"key": "x"}, allow_redirects=False) as reply:
                assert reply.status == status
                if status == 303:
                    assert "Secure" in reply.headers["Set-Cookie"]


async def test_a_proxy_can_not_be_made_to_name_another_client() -> None:
    seen: list[tuple[str | None, str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.remote, request.scheme, request.host))
        return web.Response()

    app = web.Application(middlewares=[believe(parse_networks(["127.0.0.1", "10.0.0.0/8"]))])
    app.add_routes([web.get("/", handler)])
    headers = {
        "X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.1.2.3",
        "X-Forwarded-Proto": "ftp",
        "X-Forwarded-Host": "a.example, b.example",
    }
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as http,
        http.get(server.make_url("/"), headers=headers),
    ):
        pass
    assert seen == [("192.0.2.7", "http", "b.example")]
    with pytest.raises(ConfigError, match="--trusted-proxy nonsense"):
        parse_networks(["nonsense"])


@pytest.mark.usefixtures("live")
async def test_live_pages_send_what_has_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as run, run.http.get(f"{run.server.address}/ui/?live=1") as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert b"retry" in await reply.content.readuntil(b"\n\n")
        assert b"2 of 2 agents" in await reply.content.readuntil(b"\n\n")
        run.fleet.agents[0].die()
        work = [run.client.completions.create(model=MODEL, prompt=f"p{i}", max_tokens=4) for i in range(8)]
        await asyncio.gather(*work)
        await until(lambda: _said(reply, b"1 of 2 agents"))


async def _said(reply: Any, text: bytes) -> bool:
    return text in await reply.content.readuntil(b"\n\n")
