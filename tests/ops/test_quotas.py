"""Settings of quotas: forms that are taken, and mistakes that are told at start."""

from typing import Any

import pytest

from calotype.ops.settings.settings import Settings, SettingsError, load_settings

PASSWORD = {"url": "https://k/v3", "username": "calotype", "password": "p"}
CREDENTIAL = {
    "url": "https://k/v3",
    "application_credential_id": "i",
    "application_credential_secret": "s",
}


@pytest.mark.parametrize(
    ("text", "storage_bytes"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("1KB", 1024),
        ("3MB", 3 << 20),
        ("500GB", 500 << 30),
        ("2TB", 2 << 40),
    ],
)
def test_storage_is_written_as_glance_writes_it(text: str, storage_bytes: int) -> None:
    assert Settings(limits={"user_storage": text}).limits.user_storage_bytes == storage_bytes


@pytest.mark.parametrize("text", ["", "-1", "1 GB", "1gb", "1.5GB", "1PB", "GB", "１KB"])
def test_another_form_of_storage_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"limits.user_storage: .*such as 500GB"):
        load_settings(None, limits__user_storage=text)


@pytest.mark.parametrize(
    ("limits", "keystone", "told"),
    [
        ({}, {}, "limits.keystone = true needs keystone.url"),
        ({}, {"url": "https://k/v3"}, "limits.keystone = true needs keystone.username"),
        ({"user_storage": "1GB"}, PASSWORD, "not used when keystone = true"),
        ({"project_images": 0}, PASSWORD, "not used when keystone = true"),
        ({"system_scope": True}, CREDENTIAL, "limits.system_scope = true needs keystone.username"),
    ],
)
def test_limits_of_keystone_that_cannot_be_asked_for_are_told_at_start(
    limits: dict[str, Any], keystone: dict[str, str], told: str
) -> None:
    tables = {f"limits__{key}": value for key, value in {"keystone": True, **limits}.items()}
    asking = {f"keystone__{key}": value for key, value in keystone.items()}
    with pytest.raises(SettingsError, match=told):
        load_settings(None, **tables, **asking)


def test_a_password_or_an_application_credential_will_do() -> None:
    for keystone in (PASSWORD, CREDENTIAL):
        assert Settings(limits={"keystone": True}, keystone=keystone).limits.keystone
