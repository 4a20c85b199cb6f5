"""Take the screenshots of the dashboard: ``python docs/screenshots.py``. It needs playwright and a chromium."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from pathlib import Path

import openai
from playwright.async_api import Page, async_playwright

from aurora_pool import event_loop
from aurora_pool.serve import ServerOptions, serving
from aurora_pool.testing import AgentProfile, SimulatedFleet

IMAGES = Path(__file__).parent / "images"
MODEL = "simulated-model"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def questions(count: int, *, faulty: int = 0) -> bytes:
    """A batch file; every ``faulty``-th request is one that servers refuse."""
    lines = []
    for number in range(count):
        messages = [{"role": "user", "content": f"What is special about the number {number}?"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 200}
        if faulty and number % faulty == faulty - 1:
            body["temperature"] = -1
        request = {"custom_id": f"number-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(request) + "\n")
    return "".join(lines).encode()


async def submit(client: openai.AsyncOpenAI, name: str, content: bytes) -> str:
    """Queue a batch; return its id."""
    file = await client.files.create(file=(name, content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"filename": name}
    )
    return batch.id


async def ask_online(client: openai.AsyncOpenAI) -> None:
    """Ask something now and then, for ever."""
    while True:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Say something."}], max_tokens=20
        )
        await asyncio.sleep(1)


async def take(page: Page, name: str) -> None:
    """Save what the page shows, as a small file."""
    await page.wait_for_timeout(1500)
    await page.screenshot(path=IMAGES / f"{name}.png")


async def main() -> None:
    """Make a fleet and some jobs, and look at every page."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    IMAGES.mkdir(exist_ok=True)
    fleet = SimulatedFleet(6, profile=AgentProfile(slots=16, median_length=80.0))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            fleet,
            serving(fleet.endpoints, ServerOptions(data=Path(folder), port=0)) as server,
            openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none") as client,
        ):
            while not server.fleet.models:
                await server.fleet.wait_for_change(1.0)
            done = await submit(client, "spelling.jsonl", questions(60, faulty=12))
            bad = await submit(client, "typos.jsonl", questions(3) + b'{"custom_id": "x"}\n{"custom_id": \n')
            running = await submit(client, "numbers.jsonl", questions(12_000))
            await submit(client, "translations.jsonl", questions(8000))
            await asyncio.sleep(4)
            fleet.agents[2].die()
            asking = asyncio.create_task(ask_online(client))
            await asyncio.sleep(60)
            await shoot(server.address, {"done": done, "bad": bad, "running": running})
            asking.cancel()


async def shoot(address: str, jobs: dict[str, str]) -> None:
    """Take all screenshots."""
    pages = {
        "fleet": "",
        "jobs": "jobs",
        "job": f"jobs/{jobs['running']}",
        "job-errors": f"jobs/{jobs['bad']}",
        "records": f"jobs/{jobs['done']}/records",
        "charts": "charts",
        "upload": "upload",
        "keys": "keys",
    }
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1100, "height": 640})
        for name, path in pages.items():
            await page.goto(f"{address}/ui/{path}")
            await take(page, f"serve-{name}")
        await page.goto(f"{address}/ui/playground")
        await page.get_by_label("Message", exact=True).fill("What is a mill?")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("Done in").wait_for()
        await take(page, "serve-playground")
        dark = await browser.new_page(viewport={"width": 390, "height": 760}, color_scheme="dark")
        for name in ("fleet", "jobs", "charts"):
            await dark.goto(f"{address}/ui/{pages[name]}")
            await take(dark, f"serve-{name}-phone")
        await browser.close()


if __name__ == "__main__":
    event_loop.run(main())
