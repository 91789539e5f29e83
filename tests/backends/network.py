"""The network of one machine: a process that passes TCP on, and cuts everything off when stopped.

`python network.py LISTEN:TO [LISTEN:TO ...]`, ports on 127.0.0.1. SIGSTOP is a cut without a word:
connections stay open, new ones are accepted by the kernel, and nothing comes through.
"""

import asyncio
import sys
from contextlib import suppress


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(listen: int, to: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", listen)
    await server.serve_forever()


async def _main(pairs: list[str]) -> None:
    ways = [tuple(map(int, pair.split(":"))) for pair in pairs]
    await asyncio.gather(*(_serve(listen, to) for listen, to in ways))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
