"""Sealing while serving: a follower that any process may lead."""

import asyncio

import structlog

from calotype.projections.engine.appending import append_rows
from calotype.projections.seal.seal import sealer, standing_checkpoint
from calotype.projections.seal.signed_note import Signer
from calotype.stores.log.recorder import GroupCommitRecorder

log = structlog.get_logger("calotype.sealing")


async def run_sealer(recorder: GroupCommitRecorder, signer: Signer | None, holder: str) -> None:
    """Seals what is appended, a second later at most, until cancelled.

    Without a signer the tree is kept but no checkpoint is signed. Trouble never reaches those who
    append: it is logged and tried again.
    """
    if signer is not None:
        try:
            await _sign_sealed_size(recorder, signer)
        except Exception as error:
            log.warning("checkpoint not signed", error=str(error))
    await sealer(recorder, signer, holder).run()


async def _sign_sealed_size(recorder: GroupCommitRecorder, signer: Signer) -> None:
    due = await asyncio.to_thread(standing_checkpoint, recorder, signer)
    if due is not None:
        await append_rows(recorder, [due])
