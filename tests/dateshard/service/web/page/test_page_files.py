"""The page's files: a strict policy, nothing from elsewhere, every form field and state, and uPlot as it was released."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import urljoin

import pytest

from dateshard.service.jobs.job_states import STATES
from dateshard.service.web.page.page_routes import FILES
from dateshard.service.web.start_body import SCHEDULER_KEYS, StartBody
from tests.kit.page_client import PageClient, page_client
from tests.kit.pages import Page

ADDRESS = re.compile(rb"https?://[^\s\"'`)]*|(?<![:\w/])//(?=[a-z0-9-]+\.[a-z])[^\s\"']*")
NAMESPACE = re.compile(rb'<svg xmlns="[^"]*"')  # a name, of which nothing is loaded
OURS = [name for name in FILES if not name.startswith("uplot/")]
UPLOT = {  # uPlot 1.6.32 of npm
    "uplot/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
NOT_IN_THE_FORM = {"algorithm_type", "framework"}  # deep learning with PyTorch is all there is to choose


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PageClient]:
    made = page_client(tmp_path)
    yield made
    made.close()


def text(name: str) -> str:
    return FILES[name].decode()


def test_the_page_comes_under_a_policy_that_runs_nothing_but_its_own_files(client: PageClient) -> None:
    answer = client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert not re.search(r"unsafe|\*|https?:", answer.headers["content-security-policy"])
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_is_well_formed_without_inline_code_and_all_that_it_names_is_served(client: PageClient) -> None:
    page = Page(client.get("/").text)
    assert page.open == []  # every element is closed in its turn
    tags = {tag for tag, _ in page.elements}
    assert "style" not in tags
    assert all("src" in attributes for tag, attributes in page.elements if tag == "script")
    assert not [
        name for _, attributes in page.elements for name in attributes if name == "style" or name.startswith("on")
    ]
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {*page.attributes("for"), *page.attributes("aria-labelledby")} <= set(ids)
    named = {link for name in ("src", "href") for link in page.attributes(name) if not link.startswith("#")}
    modules = {f"assets/{name}" for name in FILES if name.endswith(".js")}
    assert named <= {f"assets/{name}" for name in FILES}
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for link in named | modules:
        answer = client.get(f"/{link}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kinds[link.rpartition(".")[2]])
        again = client.get(f"/{link}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "../page_routes.py", "%2e%2e/app.js", "uplot%2f..%2f..%2fpage_routes.py", "uplot", ""]
)
def test_nothing_but_the_pages_files_can_be_asked_for(client: PageClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


@pytest.mark.parametrize("name", OURS)
def test_no_file_names_an_address_elsewhere_or_reads_text_as_code(name: str) -> None:
    assert ADDRESS.findall(NAMESPACE.sub(b"", FILES[name])) == []
    assert not re.search(
        rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|@import|url\(", FILES[name]
    )
    for module in re.findall(rb"from \"(\./[\w.]+)\"", FILES[name]):
        assert urljoin(name, module.decode()) in FILES


def test_uplot_is_what_was_released_and_its_licence_lies_beside_it() -> None:
    assert {name: sha256(FILES[name]).hexdigest() for name in UPLOT} == UPLOT
    assert "The MIT License" in text("uplot/LICENSE.txt")
    assert "Leon Sorokin" in text("uplot/LICENSE.txt")


def test_the_form_has_every_field_of_a_start_but_those_without_a_choice() -> None:
    form = {
        attributes["name"]
        for tag, attributes in Page(text("page.html")).elements
        if tag in ("input", "select") and "name" in attributes
    }
    made = set(re.findall(r'name: "(\w+)"', text("start_form.js")))
    scheduled = set(re.findall(r"(\w+): \"", re.findall(r"SCHEDULED = \{(.*)\}", text("start_form.js"))[0]))
    assert scheduled == {key for keys in SCHEDULER_KEYS.values() for key in keys}
    assert form | (made & {"feature_columns"}) | scheduled == StartBody.model_fields.keys() - NOT_IN_THE_FORM


def test_every_state_has_a_sign_and_a_word() -> None:
    table = re.findall(r"STATES = \{(.*?)\n\}", text("figures.js"), re.DOTALL)[0]
    assert set(re.findall(r"^  (\w+): \[\".\", \"[A-Z][a-z ]+\"\]", table, re.MULTILINE)) == set(STATES)


def test_light_and_dark_have_contrast_enough() -> None:
    """4.5 for text and 3 for lines and borders, by the formula of WCAG 2."""
    colours = {
        name: pair
        for name, *pair in re.findall(
            r"(--[\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text("look.css") + text("app.css")
        )
    }
    for text_colour in ("--ink", "--soft", "--a", "--alarm", "--b-text"):
        for ground in ("--paper", "--card"):
            for shade in (0, 1):
                assert contrast(colours[text_colour][shade], colours[ground][shade]) >= 4.5, (
                    text_colour,
                    ground,
                    shade,
                )
    for line in ("--border", "--b", "--a-fill"):
        for shade in (0, 1):
            assert contrast(colours[line][shade], colours["--card"][shade]) >= 3, (line, shade)


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
