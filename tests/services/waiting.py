"""How the servers of the tests wait before they answer."""

import asyncio
import time


async def sleep_at_least(seconds: float) -> None:
    """A timer of libuv (uvloop) counts from when its loop last looked at the clock: on a busy host it ends long before."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(left)
