"""The rules that are asked, with the answers that hold while an operator's file says nothing.

Names and texts are in the language of oslo.policy, so that files written for Glance mean the same
here. The last block names what Glance does not have: calls on the event log.
"""

from dataclasses import dataclass

_ADMIN = "rule:context_is_admin"
_AUDITOR = "rule:auditor"
_SERVICE = "rule:service_api"
_OWN = "project_id:%(project_id)s"
_OFFERED = "project_id:%(member_id)s"
# Which shared images a project can reach at all is not for the rules to say: see `in_sight`.
_SEEN = (
    f"({_OWN} or {_OFFERED} or 'community':%(visibility)s or 'public':%(visibility)s "
    "or 'shared':%(visibility)s)"
)
_OWNING_MEMBER = f"{_ADMIN} or (role:member and {_OWN})"
_OWNING_READER = f"{_ADMIN} or (role:reader and {_OWN})"
_ADDING_MEMBER = f"(role:member and {_OWN} and project_id:%(owner)s)"
_SHARING_READER = f"{_ADMIN} or (role:reader and ({_OWN} or {_OFFERED}))"
_DEFINITION_READER = f"{_ADMIN} or (role:reader and ({_OWN} or 'public':%(visibility)s))"
_ANYBODY = "rule:default"


@dataclass(frozen=True, slots=True)
class DefaultRule:
    """A rule, what holds by default, and what it guards."""

    name: str
    text: str
    guards: str
    former: str | None = None
    """What held before the personas reader and member; still holds too while
    `enforce_new_defaults` is false."""


def _metadef_rules() -> tuple[DefaultRule, ...]:
    read = (
        "get_metadef_namespace", "get_metadef_object", "get_metadef_objects",
        "get_metadef_property", "get_metadef_properties", "get_metadef_tag", "get_metadef_tags",
        "list_metadef_resource_types", "get_metadef_resource_type",
    )  # fmt: skip
    write = (
        "add_metadef_namespace", "modify_metadef_namespace", "delete_metadef_namespace",
        "add_metadef_object", "modify_metadef_object", "delete_metadef_object",
        "add_metadef_property", "modify_metadef_property", "remove_metadef_property",
        "add_metadef_tag", "add_metadef_tags", "modify_metadef_tag", "delete_metadef_tag",
        "delete_metadef_tags", "add_metadef_resource_type_association",
        "remove_metadef_resource_type_association",
    )  # fmt: skip
    guards = "metadata definitions"
    return (
        DefaultRule("metadef_default", "", "reading metadata definitions, formerly"),
        DefaultRule("metadef_admin", _ADMIN, "changing metadata definitions"),
        DefaultRule("get_metadef_namespaces", _OWNING_READER, guards, "rule:metadef_default"),
        *(DefaultRule(name, _DEFINITION_READER, guards, "rule:metadef_default") for name in read),
        *(DefaultRule(name, "rule:metadef_admin", guards) for name in write),
    )


DEFAULT_RULES: tuple[DefaultRule, ...] = (
    DefaultRule("default", "", "what a rule refers to that nobody wrote"),
    DefaultRule("context_is_admin", "role:admin", "who is an administrator"),
    DefaultRule("service_api", f"role:service or {_ADMIN}", "who is another service"),
    DefaultRule("add_image", f"{_ADMIN} or {_ADDING_MEMBER}", "POST /v2/images", _ANYBODY),
    DefaultRule("delete_image", _OWNING_MEMBER, "DELETE /v2/images/{id}", _ANYBODY),
    DefaultRule("get_image", f"{_ADMIN} or (role:reader and {_SEEN})",
                "GET /v2/images/{id}, and each image of a list", _ANYBODY),
    DefaultRule("get_images", _OWNING_READER, "GET /v2/images", _ANYBODY),
    DefaultRule("modify_image", _OWNING_MEMBER, "PATCH /v2/images/{id}, and its tags", _ANYBODY),
    DefaultRule("publicize_image", _ADMIN, "visibility public"),
    DefaultRule("communitize_image", _OWNING_MEMBER, "visibility community", _ANYBODY),
    DefaultRule("download_image", f"{_ADMIN} or (role:member and {_SEEN})",
                "GET /v2/images/{id}/file", _ANYBODY),
    DefaultRule("download_from_store", f"{_ADMIN} or (role:member and {_SEEN})",
                "GET /v2/images/{id}/file with prefer", _ANYBODY),
    DefaultRule("upload_image", _OWNING_MEMBER, "PUT /v2/images/{id}/file", _ANYBODY),
    DefaultRule("delete_image_location", _ADMIN, "PATCH removing a location", _ANYBODY),
    DefaultRule("get_image_location", _OWNING_READER, "places of image data", _ANYBODY),
    DefaultRule("set_image_location", _OWNING_MEMBER,
                "PATCH adding or replacing a location", _ANYBODY),
    DefaultRule("add_image_location", f"{_SERVICE} or {_ADDING_MEMBER}",
                "POST /v2/images/{id}/locations"),
    DefaultRule("fetch_image_location", _SERVICE, "GET /v2/images/{id}/locations"),
    DefaultRule("add_member", _OWNING_MEMBER, "POST /v2/images/{id}/members", _ANYBODY),
    DefaultRule("delete_member", _OWNING_MEMBER,
                "DELETE /v2/images/{id}/members/{member}", _ANYBODY),
    DefaultRule("get_member", _SHARING_READER, "GET /v2/images/{id}/members/{member}", _ANYBODY),
    DefaultRule("get_members", _SHARING_READER, "GET /v2/images/{id}/members", _ANYBODY),
    DefaultRule("modify_member", f"{_ADMIN} or (role:member and {_OFFERED})",
                "PUT /v2/images/{id}/members/{member}", _ANYBODY),
    DefaultRule("deactivate", _OWNING_MEMBER, "POST /v2/images/{id}/actions/deactivate", _ANYBODY),
    DefaultRule("reactivate", _OWNING_MEMBER, "POST /v2/images/{id}/actions/reactivate", _ANYBODY),
    DefaultRule("copy_image", _ADMIN, "import with copy-image"),
    DefaultRule("manage_image_cache", _ADMIN, "the cache, formerly"),
    DefaultRule("cache_image", _ADMIN, "PUT /v2/cache/{id}"),
    DefaultRule("cache_list", _ADMIN, "GET /v2/cache"),
    DefaultRule("cache_delete", _ADMIN, "DELETE /v2/cache/{id}"),
    DefaultRule("cache_clean", _ADMIN, "cleaning the cache"),
    DefaultRule("cache_prune", _ADMIN, "pruning the cache"),
    DefaultRule("list_cached_nodes", _ADMIN, "which nodes hold an image in their cache"),
    DefaultRule("stores_info_detail", f"{_ADMIN} or {_SERVICE}", "GET /v2/info/stores/detail"),
    DefaultRule("get_task", "", "not asked"),
    DefaultRule("get_tasks", "", "not asked"),
    DefaultRule("add_task", "", "not asked"),
    DefaultRule("modify_task", "", "not asked"),
    DefaultRule("tasks_api_access", _ADMIN, "/v2/tasks"),
    *_metadef_rules(),
    # Calls of our own.
    DefaultRule("auditor", f"{_ADMIN} or role:auditor", "who may read all that is recorded"),
    DefaultRule("get_image_history", f"{_AUDITOR} or (role:reader and {_OWN})",
                "GET /log/v1/images/{id}/history"),
    DefaultRule("get_past_images", f"{_AUDITOR} or role:reader",
                "GET /log/v1/images as of a moment; what is shown is what get_image allows today"),
    DefaultRule("get_all_past_images", _AUDITOR, "the same for the images of all projects"),
    DefaultRule("get_events", "role:reader", "GET /log/v1/events of the caller's project"),
    DefaultRule("get_all_events", _AUDITOR, "GET /log/v1/events of all projects"),
    DefaultRule("get_consumer", f"{_AUDITOR} or role:reader",
                "GET /log/v1/consumers, one of them, and its parked events"),
    DefaultRule("use_consumer", f"{_AUDITOR} or role:member",
                "POST /log/v1/consumers/{name}/fetch, ack and extend"),
    DefaultRule("modify_consumer", f"{_AUDITOR} or role:member",
                "PUT and DELETE /log/v1/consumers/{name}, seek, and its parked events"),
    DefaultRule("get_webhooks", "role:reader", "GET /log/v1/webhooks of the caller's project"),
    DefaultRule("modify_webhooks", "role:member",
                "making, changing, testing and deleting them, and sending parked messages again"),
    DefaultRule("manage_all_webhooks", _ADMIN,
                "all of these for operators' webhooks, which get every event, and all projects'"),
    DefaultRule("restore_image", _OWNING_MEMBER, "POST /log/v1/images/{id}/restore"),
    DefaultRule("purge_image", _ADMIN, "POST /log/v1/images/{id}/purge"),
    DefaultRule("get_seal", _AUDITOR, "/log/v1/checkpoint, tile and proof"),
)  # fmt: skip
"""Every rule that a file may override. A file may name others too, to refer to them."""
