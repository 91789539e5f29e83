"""Sealing while serving: a follower that any process may lead."""

import asyncio
from collections.abc import Sequence

import structlog

from calotype.projections.seal.seal import sealer, standing_checkpoint
from calotype.projections.seal.signed_note import Signer
from calotype.stores.log.append import Append
from calotype.stores.log.recorder import GroupCommitRecorder
from calotype.stores.log.tables import Replace

log = structlog.get_logger("calotype.sealing")


async def run_sealer(recorder: GroupCommitRecorder, signer: Signer | None, holder: str) -> None:
    """Seals what is appended, a second later at most, until cancelled.

    Without a signer the tree is kept but no checkpoint is signed. Trouble never reaches those who
    append: it is logged and tried again.
    """
    if signer is not None:
        try:
            await _sign_what_stands(recorder, signer)
        except Exception as error:
            log.warning("checkpoint not signed", error=str(error))
    await sealer(recorder, signer, holder).run()


async def _sign_what_stands(recorder: GroupCommitRecorder, signer: Signer) -> None:
    due = await asyncio.to_thread(standing_checkpoint, recorder, signer)
    if due is None:
        return
    rows: Sequence[Replace] = [due]
    future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    recorder.submit(Append((), lambda: rows, None, future))
    await future
