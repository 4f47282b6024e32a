"""Who is let in: requests are refused beyond the limit, and the end of a stream waits for its turn."""

from __future__ import annotations

import asyncio

import pytest

from serving.engine import Engine
from serving.observation import Metrics
from serving.prediction import RequestError


def test_the_end_of_a_stream_waits_for_a_place_and_newcomers_do_not_take_it() -> None:
    asyncio.run(_a_stream_ends_while_all_places_are_taken())


async def _a_stream_ends_while_all_places_are_taken() -> None:
    engine, order = Engine(Metrics(), max_clips=2), []

    async def end_of_stream() -> None:
        async with engine.admit_in_turn():
            order.append("in")
            with pytest.raises(RequestError, match="2 clips are being worked on"):
                engine.refuse_if_full(1)

    with engine.admit():
        with engine.admit():
            ending = asyncio.create_task(end_of_stream())
            await asyncio.sleep(0.01)
            assert order == []
        # Its place is free, and it has not taken it yet.
        with pytest.raises(RequestError, match="being worked on"), engine.admit():
            pass
        await ending
    assert order == ["in"]
    with engine.admit(2):
        pass


def test_who_leaves_while_he_waits_keeps_no_place() -> None:
    asyncio.run(_a_stream_is_cancelled_while_it_waits())


async def _a_stream_is_cancelled_while_it_waits() -> None:
    engine = Engine(Metrics(), max_clips=1)

    async def end_of_stream() -> None:
        async with engine.admit_in_turn():
            raise AssertionError("there was no place")

    with engine.admit():
        ending = asyncio.create_task(end_of_stream())
        await asyncio.sleep(0.01)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
    with engine.admit():
        pass
