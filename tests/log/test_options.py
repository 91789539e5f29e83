"""What can be chosen of a log can be chosen in the settings, under the same name."""

from calotype.ops.settings.log import Log
from calotype.stores.log.options import LogOptions


def test_every_option_of_the_log_is_a_setting() -> None:
    elsewhere = {"url", "cache_bytes"}  # Where it is, and what commands and followers remember.
    assert set(LogOptions.__slots__) | elsewhere == set(Log.model_fields)
