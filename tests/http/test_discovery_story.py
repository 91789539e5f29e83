"""What a client asks before it does anything else, and how it is told that it is wrong."""

import pytest

HTML, JSON, PLAIN = "text/html; charset=UTF-8", "application/json", "text/plain; charset=UTF-8"
VERSIONS = ["v2.9", "v2.7", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v3/images", "/V2/images", "/v2.19/images", "/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
async def test_an_unknown_first_segment_is_answered_300_with_the_versions(admin, path, method):
    answer = await admin(method, path)
    assert answer.status == 300
    assert answer.headers["Content-Type"] == "application/json"
    assert [version["id"] for version in answer.json["versions"]] == VERSIONS


async def test_the_versions_document_names_one_current_version_and_the_way_to_it(admin):
    for path in ("/versions", "/versions/", "/versions/any/thing"):
        answer = await admin("GET", path)
        assert answer.status == 200
        versions = answer.json["versions"]
        current = [version["id"] for version in versions if version["status"] == "CURRENT"]
        assert current == ["v2.9"]
        assert {version["status"] for version in versions} == {"CURRENT", "SUPPORTED"}
        links = {link["href"] for version in versions for link in version["links"]}
        assert links == {str(admin.client.make_url("/v2/"))}


async def test_the_operators_public_endpoint_is_what_the_versions_link_to(open_cloud):
    cloud = await open_cloud(http={"public_endpoint": "https://images.example/glance/"})
    versions = (await cloud.admin("GET", "/versions")).json["versions"]
    assert versions[0]["links"] == [{"rel": "self", "href": "https://images.example/glance/v2/"}]


async def test_v2_without_a_slash_is_redirected_and_with_one_is_nothing(admin):
    answer = await admin("GET", "/v2")
    assert answer.status == 302
    assert answer.headers["Location"] == str(admin.client.make_url("/v2/"))
    for path in ("/v2/", "/v2/images/", "/v2/nothing", "/v2//images"):
        assert (await admin("GET", path)).status == 404, path


@pytest.mark.parametrize("prefix", [*VERSIONS, "v2.6", "v2.15", "v2.17"])
async def test_every_listed_version_and_three_more_are_prefixes_of_the_same_api(admin, prefix):
    image = await admin.create(name="x y")
    listed = (await admin("GET", f"/{prefix}/images?name=x%20y&limit=1")).json
    assert [found["id"] for found in listed["images"]] == [image["id"]]
    assert listed["first"] == "/v2/images?name=x%20y&limit=1"
    assert (await admin("GET", f"/{prefix}/images/{image['id']}")).json == image
    assert (await admin("PUT", f"/{prefix}/images/{image['id']}/tags/a%20b")).status == 204
    assert (await admin.show(image["id"]))["tags"] == ["a b"]
    assert (await admin("GET", f"/{prefix}/nothing")).status == 404


@pytest.mark.parametrize("prefix", ["v2.8", "v2.10", "v2.13", "v2.14", "v2.16", "v2.18", "v2."])
async def test_a_version_that_needs_what_is_not_here_is_no_prefix(admin, prefix):
    assert (await admin("GET", f"/{prefix}/images")).status == 300


async def test_data_goes_through_a_versioned_path_too(admin):
    image = await admin.create_bare()
    path = f"/v2.9/images/{image['id']}/file"
    put = await admin("PUT", path, data=b"bytes", Content_Type="application/octet-stream")
    assert put.status == 204
    assert (await admin("GET", path)).body == b"bytes"
    assert (await admin("GET", path)).headers["x-openstack-request-id"]


async def test_accept_selects_the_version_and_the_whole_path_is_kept(admin):
    image = await admin.create()
    accept = "application/vnd.openstack.images-v2.7"
    answer = await admin("GET", f"/images/{image['id']}", Accept=accept)
    assert (answer.status, answer.json["id"]) == (200, image["id"])
    unknown = "application/vnd.openstack.images-v3.0"
    assert (await admin("GET", "/images", Accept=unknown)).status == 300


async def test_a_wrong_method_is_answered_405_with_those_that_exist(admin):
    image = await admin.create()
    path = f"/v2/images/{image['id']}"
    cases = [
        ("PUT", "/v2/images", {"GET", "POST"}),
        ("POST", path, {"GET", "PATCH", "DELETE"}),
        ("POST", f"{path}/file", {"GET", "PUT"}),
        ("GET", f"{path}/actions/deactivate", {"POST"}),
        ("PATCH", f"{path}/members/x", {"GET", "PUT", "DELETE"}),
        ("HEAD", "/v2/images", {"GET", "POST"}),
        ("HEAD", path, {"GET", "PATCH", "DELETE"}),
        ("HEAD", f"{path}/file", {"GET", "PUT"}),
        ("PROPFIND", "/v2/images", {"GET", "POST"}),
        ("PUT", "/v2.9/images", {"GET", "POST"}),
    ]
    for method, called, allowed in cases:
        answer = await admin(method, called)
        assert answer.status == 405, (method, called)
        named = {name.strip() for name in answer.headers["Allow"].split(",")}
        assert named == allowed, (method, called)
        assert answer.headers["x-openstack-request-id"]


async def test_an_unknown_path_is_404_and_an_unknown_method_on_it_501(admin):
    assert (await admin("GET", "/v2/nothing/here")).status == 404
    assert (await admin("PROPFIND", "/v2/nothing/here")).status == 501


async def test_options_is_answered_before_anybody_is_asked_who_they_are(projects):
    for path in ("/v2/images", "/v2/nothing", "/v2.9/images", "/"):
        answer = await projects.admin("OPTIONS", path)
        assert (answer.status, answer.body) == (200, b""), path


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, PLAIN),
        ("", PLAIN),
        ("*/*", HTML),
        ("text/html", HTML),
        ("text/html, application/json", HTML),
        ("application/json, text/html;q=0.9", JSON),
        ("application/json;q=0.5, text/html;q=0.9", HTML),
        ("application/json", JSON),
        ("image/png", PLAIN),
        ("text/plain", PLAIN),
    ],
)
async def test_the_accept_header_chooses_the_form_of_an_error(admin, accept, content_type):
    path = "/v2/images/8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4"
    answer = await admin("GET", path, **({} if accept is None else {"Accept": accept}))
    assert answer.status == 404
    assert answer.headers["Content-Type"] == content_type
    explanation = "No image found with ID 8f0c1bb2-3b6f-4c60-9a0f-5a7a5ab9e1c4"
    assert explanation in answer.text
    if content_type == JSON:
        assert answer.json["code"] == "404 Not Found"
        assert answer.json["title"] == "Not Found"
        assert set(answer.json) == {"message", "code", "title"}
        assert answer.json["message"].startswith(explanation)
    elif content_type == HTML:
        assert "<title>404 Not Found</title>" in answer.text
        assert "<h1>404 Not Found</h1>" in answer.text
        assert f"{explanation}<br /><br />" in answer.text
    else:
        assert answer.text.startswith(f"404 Not Found\n\n{explanation}")


async def test_an_error_page_quotes_what_a_caller_wrote(admin):
    answer = await admin("GET", "/v2/images/%3Cscript%3Ealert(1)%3C%2Fscript%3E", Accept="*/*")
    assert answer.status == 404
    assert "<script>" not in answer.text


async def test_a_request_id_is_made_or_taken_and_always_prefixed(admin):
    made = (await admin("GET", "/v2/images")).headers["x-openstack-request-id"]
    other = (await admin("GET", "/v2/images")).headers["x-openstack-request-id"]
    assert made.startswith("req-")
    assert made != other
    for given, told in [("mine", "req-mine"), ("req-mine", "req-mine"), ("x" * 64, None)]:
        for path in ("/v2/images", "/v2/nothing", "/v2.9/images"):
            answer = await admin("GET", path, X_Openstack_Request_Id=given)
            assert answer.headers["x-openstack-request-id"] == (told or f"req-{given}")


async def test_a_request_id_of_more_than_64_characters_is_refused_with_431(admin):
    answer = await admin("POST", "/v2/images", json={}, X_Openstack_Request_Id="x" * 65)
    assert answer.status == 431
    assert len(answer.headers["x-openstack-request-id"]) <= 64
    assert await admin.names() == []


async def test_the_healthcheck_says_ok_until_it_should_not(open_cloud, tmp_path):
    disable_file = tmp_path / "disable"
    cloud = await open_cloud(identity={"kind": "headers"}, http={"disable_file": str(disable_file)})
    check = cloud.admin
    answer = await check("GET", "/healthcheck")
    assert (answer.status, answer.text) == (200, "OK")
    disable_file.touch()
    answer = await check("GET", "/healthcheck")
    assert (answer.status, "DISABLED BY FILE" in answer.text) == (503, True)
    disable_file.unlink()
    assert (await check("GET", "/healthcheck")).status == 200
    cloud.api.draining = True
    answer = await check("GET", "/healthcheck")
    assert (answer.status, "DRAINING" in answer.text) == (503, True)


async def test_the_image_schema_names_every_field_that_an_image_shows(admin):
    document = (await admin("GET", "/v2/schemas/image")).json
    assert document["name"] == "image"
    assert document["additionalProperties"] == {"type": "string"}
    properties = document["properties"]
    assert set(await admin.create()) <= set(properties)
    for name in ("status", "size", "checksum", "created_at", "self"):
        assert properties[name]["readOnly"] is True, name
    assert "readOnly" not in properties["name"]
    assert {link["rel"] for link in document["links"]} == {"self", "enclosure", "describedby"}


async def test_collections_and_members_have_schemas_and_unknown_things_none(admin):
    for name in ("images", "member", "members"):
        document = (await admin("GET", f"/v2/schemas/{name}")).json
        assert document["name"] == name
    assert (await admin("GET", "/v2/schemas/unicorns")).status == 404


async def test_the_links_of_an_image_lead_where_they_say(admin):
    image = await admin.create_active(b"bytes")
    assert (await admin("GET", image["self"])).json == image
    assert (await admin("GET", image["file"])).body == b"bytes"
    assert (await admin("GET", image["schema"])).status == 200


async def test_there_are_no_import_methods_and_one_store_only(admin):
    methods = (await admin("GET", "/v2/info/import")).json["import-methods"]
    assert (methods["type"], methods["value"]) == ("array", [])
    assert (await admin("GET", "/v2/info/stores")).status == 404
