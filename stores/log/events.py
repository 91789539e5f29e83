"""How events are written down: one JSON object each, by orjson, times in RFC 3339."""

from datetime import datetime
from typing import Any

import orjson
from eventsourcing.persistence import Mapper, Transcoder


class OrjsonTranscoder(Transcoder):
    """Encodes the state of an event as plain JSON that any consumer can read.

    Dates are RFC 3339 text in UTC with microseconds; `timestamp` is the only one that comes
    back as a date, because it is the only one that the library computes with.
    """

    def encode(self, obj: Any) -> bytes:
        return orjson.dumps(obj, option=orjson.OPT_UTC_Z)

    def decode(self, data: bytes) -> Any:
        state = orjson.loads(data)
        if isinstance(state, dict) and "timestamp" in state:
            state["timestamp"] = datetime.fromisoformat(state["timestamp"])
        return state


def event_mapper() -> Mapper[Any]:
    """The mapper between domain events and stored events that everything here uses."""
    return Mapper(transcoder=OrjsonTranscoder())
