"""The operator's file of property protections: an ini file, as Glance reads it."""

import configparser
from collections.abc import Iterator
from pathlib import Path

from calotype.commands.policy.protections import (
    OPERATIONS,
    BadProtection,
    Protections,
    protections_of,
)
from calotype.ops.settings.settings import PropertyProtections, SettingsError


def load_protections(settings: PropertyProtections) -> Protections | None:
    """What the file says, or None without one.

    Raises SettingsError naming the file and the line, or the section and key. Whether the rules
    that it names exist is for the policy to say.
    """
    if not settings.file:
        return None
    path = Path(settings.file)
    try:
        return protections_of(_sections(path), settings.format)
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"cannot be read: {error}") from None
    except BadProtection as error:
        raise _unusable(path, str(error)) from None
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        named = f"[{error.section}]"
        if isinstance(error, configparser.DuplicateOptionError):
            named += f" {error.option}"
        raise _unusable(path, f"line {error.lineno}: {named} is there twice") from None
    except configparser.MissingSectionHeaderError as error:
        why = f"line {error.lineno}: stands before the first [section]"
        raise _unusable(path, why) from None
    except configparser.ParsingError as error:
        line = error.errors[0][0]
        raise _unusable(path, f"line {line}: is neither [section] nor key = value") from None


def _sections(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    parser = configparser.ConfigParser()
    parser.read_string(path.read_text(encoding="utf-8"), str(path))
    for section in parser.sections():
        values: dict[str, str] = {}
        for key in OPERATIONS:
            try:
                values[key] = parser.get(section, key)
            except configparser.NoOptionError:
                continue  # The protections name what is missing, with the fix.
            except configparser.InterpolationError as error:
                why = f"write %% for a per cent sign ({error.message})"
                raise BadProtection(section, key, why) from None
        yield section, values


def _unusable(path: Path, why: str) -> SettingsError:
    return SettingsError(f"property_protections.file: {path}: {why}")
