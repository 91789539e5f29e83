"""The operator's policy files: read at start, and again when they change.

Those of the policy, and that of the property protections, which may name its rules: they are read
together, and what comes of them is used together or not at all.

`[policy] file` is YAML or JSON (which is YAML), one name and text a rule; the files of
`[policy] directories` are read after it in order of their names, and later ones win. A change is
noticed within seconds. One that cannot be used changes nothing: the rules that were in force stay.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from calotype.commands.policy.policy import DEFAULT_POLICY, Policy
from calotype.commands.policy.protections import BadProtection
from calotype.commands.policy.rule_language import BadRule
from calotype.ops.settings.file_watching import watch
from calotype.ops.settings.protection_file import load_protections
from calotype.ops.settings.settings import Policy as PolicySettings
from calotype.ops.settings.settings import PropertyProtections, SettingsError

UNPROTECTED = PropertyProtections()


def load_policy(settings: PolicySettings, protected: PropertyProtections = UNPROTECTED) -> Policy:
    """The policy that the files make.

    Raises SettingsError naming file, line and rule, or section and key.
    """
    texts: dict[str, Any] = {}
    lines: dict[str, tuple[Path, int]] = {}
    for path in _files(settings):
        for name, text, line in _rules_in(path):
            texts[name] = text
            lines[name] = (path, line)
    protections = load_protections(protected)
    if not texts and protections is None and settings.enforce_new_defaults:
        return DEFAULT_POLICY
    try:
        return Policy(
            texts, enforce_new_defaults=settings.enforce_new_defaults, protections=protections
        )
    except BadProtection as error:
        raise SettingsError(f"property_protections.file: {protected.file}: {error}") from None
    except BadRule as error:
        path, line = lines.get(error.rule, (Path(settings.file), 0))
        raise SettingsError(f"policy.file: {path}, line {line}: {error}") from None


async def watch_policy(
    settings: PolicySettings,
    use: Callable[[Policy], None],
    protected: PropertyProtections = UNPROTECTED,
) -> None:
    """Puts a changed policy to use within seconds, until cancelled."""

    def files() -> list[Path]:
        return [*_files(settings), *([Path(protected.file)] if protected.file else [])]

    await watch("policy", files, partial(load_policy, settings, protected), use)


def _files(settings: PolicySettings) -> list[Path]:
    files = [Path(settings.file)] if settings.file else []
    for directory in settings.directories:
        try:
            found = sorted(Path(directory).iterdir())
        except OSError as error:
            raise SettingsError(f"policy.directories: {directory}: {error.strerror}") from None
        files += [path for path in found if path.is_file() and not path.name.startswith(".")]
    return files


def _rules_in(path: Path) -> list[tuple[str, Any, int]]:
    """`(name, text, line)` of every rule in a file."""
    try:
        text = path.read_text()
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"policy.file: {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise SettingsError(f"policy.file: {path}, line {line}: is not valid YAML") from None
    if content is None:
        return []
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingsError(f"policy.file: {path}, line 1: must map names of rules to their texts")
    assert isinstance(tree, yaml.MappingNode)
    lines = {key.value: key.start_mark.line + 1 for key, _ in tree.value}
    return [(name, rule, lines.get(name, 1)) for name, rule in content.items()]
