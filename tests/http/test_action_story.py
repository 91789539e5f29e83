"""Images are deactivated and reactivated."""

import pytest


async def test_deactivating_and_reactivating_are_done_once_and_wished_for_often(admin):
    image = await admin.create_active()
    path = f"/v2/images/{image['id']}/actions"
    for action, status in [
        ("reactivate", "active"),
        ("deactivate", "deactivated"),
        ("deactivate", "deactivated"),
        ("reactivate", "active"),
    ]:
        answer = await admin("POST", f"{path}/{action}")
        assert (answer.status, answer.body) == (204, b"")
        assert (await admin.show(image["id"]))["status"] == status


@pytest.mark.parametrize("action", ["deactivate", "reactivate"])
async def test_an_image_without_data_is_neither(admin, action):
    image = await admin.create()
    assert (await admin("POST", f"/v2/images/{image['id']}/actions/{action}")).status == 403
    assert (await admin.show(image["id"]))["status"] == "queued"


async def test_a_deactivated_images_metadata_still_changes(admin):
    image = await admin.create_active()
    await admin("POST", f"/v2/images/{image['id']}/actions/deactivate")
    answer = await admin.patch(image["id"], {"op": "add", "path": "/why", "value": "virus"})
    assert (answer.status, answer.json["why"], answer.json["status"]) == (
        200,
        "virus",
        "deactivated",
    )


async def test_only_owner_and_administrator_may(projects):
    owner, other = projects.caller("mine"), projects.caller("yours")
    seen = await owner.create_active(visibility="community")
    unseen = await owner.create_active(visibility="private")
    for action in ("deactivate", "reactivate"):
        assert (await other("POST", f"/v2/images/{seen['id']}/actions/{action}")).status == 403
        assert (await other("POST", f"/v2/images/{unseen['id']}/actions/{action}")).status == 404
    operator = projects.caller("ops", "admin")
    for caller in (owner, operator):
        for action in ("deactivate", "reactivate"):
            answer = await caller("POST", f"/v2/images/{unseen['id']}/actions/{action}")
            assert answer.status == 204
