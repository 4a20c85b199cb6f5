from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from aurora_pool.testing import SimulatedClockEventLoop, StuckLoopError, run_simulated


async def echo_server() -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_an_hour_costs_nothing() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_simulated(main()) == 3600


def test_timers_ring_in_order_at_their_own_times() -> None:
    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        rang: list[tuple[float, str]] = []

        def ring(name: str) -> None:
            rang.append((loop.time(), name))

        for seconds, name in ((5.0, "c"), (0.25, "a"), (7.0, "d"), (1.0, "b")):
            loop.call_later(seconds, ring, name)
        await asyncio.sleep(10)
        return rang

    assert run_simulated(main()) == [(0.25, "a"), (1.0, "b"), (5.0, "c"), (7.0, "d")]


def test_a_timeout_is_exact() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run_simulated(main()) == 60


def test_bytes_on_their_way_arrive_before_time_passes() -> None:
    async def main() -> float:
        server, port = await echo_server()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        blob = b"x" * 3_000_000
        for _ in range(3):
            writer.write(blob)
            assert await asyncio.wait_for(reader.readexactly(len(blob)), 0.001) == blob
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return asyncio.get_running_loop().time()

    assert run_simulated(main()) == 0


def test_many_connections_take_the_same_course_every_time() -> None:
    async def main() -> list[int]:
        server, port = await echo_server()
        order: list[int] = []

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for round_ in range(5):
                await asyncio.sleep(0.1 * ((number + round_) % 3))
                writer.write(b"ping")
                await reader.readexactly(4)
                order.append(number)
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*map(client, range(40)))
        server.close()
        await server.wait_closed()
        return order

    assert run_simulated(main()) == run_simulated(main())


def test_threads_are_waited_for_without_moving_the_clock() -> None:
    released = threading.Event()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        threading.Timer(0.05, released.set).start()
        waiting = asyncio.create_task(asyncio.to_thread(released.wait, 30))
        await asyncio.wait([waiting], timeout=10)
        assert waiting.done()
        await loop.getaddrinfo("127.0.0.1", 80)
        return loop.time()

    assert run_simulated(main()) == 0


def test_a_call_from_another_thread_is_heard_while_nothing_else_is_due() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        threading.Timer(0.05, loop.call_soon_threadsafe, (future.set_result, "heard")).start()
        return await future

    assert run_simulated(main()) == "heard"


def test_a_loop_in_which_nothing_can_happen_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aurora_pool.testing.clock._STUCK_AFTER", 0.01)
    loop = SimulatedClockEventLoop()
    try:
        with pytest.raises(StuckLoopError):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_a_peer_that_does_not_read_does_not_stop_the_clock() -> None:
    async def main() -> float:
        listener = socket.create_server(("127.0.0.1", 0))
        _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        writer.write(b"x" * 50_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await writer.drain()
        writer.transport.abort()
        listener.close()
        await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_simulated(main()) == 5


@pytest.mark.simulated_clock
async def test_the_mark_gives_a_test_the_simulated_clock() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedClockEventLoop)
    await asyncio.sleep(1e6)
    assert loop.time() == 1e6


async def test_without_the_mark_the_clock_is_real() -> None:
    assert not isinstance(asyncio.get_running_loop(), SimulatedClockEventLoop)
