"""Pictures over HTTP: ranges, validators, formats, and storage that fails."""

import io

import pytest
from PIL import Image

from api.negotiation import preferred
from tests.api_kit import Farm


@pytest.fixture
def farm():
    return Farm()


@pytest.fixture
def client(farm):
    return farm.client()


@pytest.fixture
def picture(farm, client):
    """A URL and the bytes behind it."""
    job = client.post("/jobs", json={"prompt": "a fox", "seed": 1, "output_compression": 50}).json()
    png = farm.render()
    return client.get(f"/jobs/{job['id']}").json()["images"][0]["url"], png


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=0-99999999", 0, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_gives_just_those_bytes(client, picture, asked, start, end):
    url, png = picture

    response = client.get(url, headers={"Range": asked})

    assert response.status_code == 206
    assert response.content == png[start:end]
    assert int(response.headers["content-length"]) == len(response.content)
    first = png.index(response.content) if start else 0
    last = first + len(response.content) - 1
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(png)}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-1", "bytes=-", "bytes=a-b", "pages=1-2", "bytes=0-1,4-5"]
)
def test_a_range_that_says_nothing_is_ignored(client, picture, asked):
    url, png = picture

    response = client.get(url, headers={"Range": asked})

    assert (response.status_code, response.content) == (200, png)


@pytest.mark.parametrize("asked", ["bytes=9999999-", "bytes=-0"])
def test_a_range_outside_the_picture_is_416(client, picture, asked):
    url, png = picture

    response = client.get(url, headers={"Range": asked})

    assert (response.status_code, response.json()["error"]["code"]) == (416, "invalid_range")
    assert response.headers["content-range"] == f"bytes */{len(png)}"


def test_a_range_of_a_webp_is_one_of_its_own_bytes(client, picture):
    path = picture[0].split("?")[0].replace(".png", ".webp")
    whole = client.get(path)

    part = client.get(path, headers={"Range": "bytes=4-11", "If-Range": whole.headers["etag"]})

    assert (part.status_code, part.content) == (206, whole.content[4:12])


def test_an_outdated_if_range_gets_the_whole_picture(client, picture):
    url, png = picture

    response = client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"old"'})

    assert (response.status_code, response.content) == (200, png)


@pytest.mark.parametrize("form", ["{etag}", '"other", {etag}', "W/{etag}", "*"])
def test_a_picture_the_client_has_is_304(client, picture, form):
    etag = client.get(picture[0]).headers["etag"]

    response = client.get(picture[0], headers={"If-None-Match": form.format(etag=etag)})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag


def test_each_format_has_its_own_etag_and_opens_as_such(client, picture):
    path = picture[0].split("?")[0]
    etags = set()
    for extension, form in (("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG")):
        response = client.get(path.replace(".png", f".{extension}"))
        opened = Image.open(io.BytesIO(response.content))
        assert (opened.format, opened.size) == (form, (256, 256))
        etags.add(response.headers["etag"])

    assert len(etags) == 3


def test_head_gives_the_headers_of_get(client, picture):
    for url in (picture[0], picture[0].split("?")[0].replace(".png", ".webp")):
        get, head = client.get(url), client.head(url)

        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "accept-ranges", "cache-control"):
            assert head.headers[name] == get.headers[name], name


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=9999999-"])
def test_head_knows_no_range(client, picture, asked):
    for url in (picture[0], picture[0].split("?")[0].replace(".png", ".webp")):
        head = client.head(url, headers={"Range": asked})

        assert (head.status_code, "content-range" in head.headers) == (200, False)
        assert head.headers["content-length"] == client.get(url).headers["content-length"]


def test_a_file_that_is_not_there_is_404(farm, client):
    job = client.post("/jobs", json={"prompt": "a fox", "n": 2}).json()
    farm.render()

    for path in ("1.png", "2.png", "7.webp"):
        response = client.get(f"/files/{job['id']}/{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "image_not_found")


@pytest.mark.parametrize("extension", ["png", "webp"])
def test_a_file_that_vanished_is_410_for_get_and_head(farm, client, picture, extension):
    farm.results.pictures.clear()
    path = picture[0].split("?")[0].replace("png", extension)

    assert client.get(path).json()["error"]["code"] == "result_gone"
    assert client.head(path).status_code == 410


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/webp, image/png", "image/png"),
        ("image/webp, image/png;q=0.5", "image/webp"),
        ("image/png;q=0, image/*", "image/webp"),
        ("IMAGE/WEBP", "image/webp"),
        ("text/html", None),
        ("*/*;q=0", None),
        ("image/png;q=x", "image/png"),
        (";;,,q=1", None),
    ],
)
def test_the_most_specific_wish_decides(accept, chosen):
    assert preferred(accept, ["image/png", "image/webp"]) == chosen
