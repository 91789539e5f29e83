"""Long query strings are parsed one at a time, and other requests are served before each."""

import asyncio

LONG = 500
"""Characters from which on a list takes about a millisecond to parse."""
_ROUNDS = 3
"""How often the event loop serves the requests that are ready before the next one is parsed."""


class LongQueries:
    """The queue of requests with a long query string."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def wait(self, query: str) -> None:
        """Returns when it is this query's turn; at once for one that is not long."""
        if len(query) > LONG:
            async with self._turn:
                for _ in range(_ROUNDS):
                    await asyncio.sleep(0)
