"""The course's site: all that a notebook holds is on its page, all links lead somewhere, and it needs only files.

It is built once, from a copy of the course.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from tests.browser.conftest import violations

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "course"))

import website  # noqa: E402  (course/ is a folder of lessons, not a package)

pytestmark = pytest.mark.needs("chromium")

LANGUAGES = list(website.LANGUAGES)
LESSONS = sorted(path.stem for path in (ROOT / "course" / "src").glob("*.md"))
REPLAYED = "02-first-vm"
LOADING = {"img": "src", "source": "srcset", "script": "src", "link": "href", "iframe": "src", "object": "data"}


def copied(folder: Path) -> Path:
    """A copy of the course and its documents."""
    skipped = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=skipped)
    shutil.copytree(ROOT / "course", folder / "course", ignore=skipped)
    (folder / "tests").symlink_to(ROOT / "tests")  # documents lead to them
    return folder / "course"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(website, "ROOT", copied(tmp_path_factory.mktemp("copy")))
        yield website.ROOT


@pytest.fixture(scope="module")
def site(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    assert website.main([str(folder)]) == 0
    return folder


class Elements(HTMLParser):
    """A page's elements, as their names and attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def ids(self) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get("id"))]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Elements(path) for path in sorted(site.rglob("*.html"))}


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_lesson_has_a_page_in_every_language(site):
    assert LESSONS
    for language in LANGUAGES:
        first = (site / language / "index.html").read_text("utf-8")
        for lesson in LESSONS:
            page = (site / language / f"{lesson}.html").read_text("utf-8")
            assert f'<html lang="{language}">' in page
            assert f'href="{lesson}.html"' in first
            other = next(one for one in LANGUAGES if one != language)
            assert f'<a href="../{other}/{lesson}.html"' in page


@pytest.mark.parametrize("lesson", LESSONS)
def test_all_cells_and_outputs_are_on_the_page(site, course, lesson):
    page = website.BeautifulSoup((site / "en" / f"{lesson}.html").read_text("utf-8"), "html.parser")
    for cell in nbformat.read(course / "en" / f"{lesson}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            shown = page.find(id=f"cell-{cell.id}")
            assert shown.select_one(".input").get_text().strip() == cell.source.strip()
            outputs = cell.outputs[:1] if cell.source == "%quiz" else cell.outputs
            assert len(shown.select(".output > *")) >= len(outputs)
            for output in outputs:
                assert output.get("text", "").strip() in shown.get_text()


def test_questions_that_nobody_hears_tell_their_answers(site):
    page = website.BeautifulSoup((site / "ko" / "01-welcome.html").read_text("utf-8"), "html.parser")
    assert "NUMBER" not in page.get_text()
    assert "노트북에서는 여기에서 고릅니다" in page.select_one(".output p:lang(ko)").get_text()
    [answers] = page.select(".output details:lang(ko)")
    assert [one.get_text()[:6] for one in answers.select("li")] == ["2 (커널)", "2 (가상 ", "2 (두 프"]


def test_every_link_and_anchor_leads_somewhere(pages):
    followed = 0
    for path, elements in pages.items():
        for tag, attributes in elements.found:
            address = attributes.get("href" if tag in ("a", "link") else LOADING.get(tag, "")) or ""
            parts = urlsplit(address)
            if not address or parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {address}"
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids(), f"{path.name}: {address}"
            followed += 1
    assert followed > 100


def test_ids_are_given_once(pages):
    for path, elements in pages.items():
        assert [one for one, count in Counter(elements.ids()).items() if count > 1] == [], path.name


def test_nothing_is_loaded_from_another_host(site, pages):
    for path, elements in pages.items():
        for tag, attributes in elements.found:
            assert urlsplit(attributes.get(LOADING.get(tag, "")) or "").scheme in ("", "data"), f"{path.name}: {tag}"
    for path in [site / "assets" / "style.css", *(site / "assets").glob("*search*.js")]:
        assert not re.search(r"url\(|@import|import\(|https?:", path.read_text("utf-8").partition("searchIndex")[0])


def test_anchors_are_equal_in_all_languages(pages):
    for lesson in LESSONS:
        ids = [elements.ids() for path, elements in pages.items() if path.stem == lesson]
        assert len(ids) == len(LANGUAGES)
        assert all(one == ids[0] for one in ids)


@pytest.mark.parametrize("name", [REPLAYED, "10-cgroups"])  # a replay, charts
def test_the_same_source_gives_the_same_bytes(course, name):
    export = website.exporter()
    one, again = (website.read_page(course / "ko" / f"{name}.ipynb", "", "ko", export) for _ in range(2))
    assert str(one.soup) == str(again.soup)


def test_a_folder_with_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert website.main([str(tmp_path)]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x](nowhere.ipynb)", "a link to nowhere.ipynb, which is not there"),
        ("[x](03-first-container.ipynb#Gone)", "a link to #Gone, which en/03-first-container.html does not have"),
        ("![x](picture.png)", "a link to picture.png"),
    ],
)
def test_a_link_to_nothing_stops_the_build(course, text, said):
    soup = website.BeautifulSoup(website.exporter().markdown2html({}, text), "html.parser")
    names = ("01-welcome", "03-first-container")
    pages = [website.Page(course / "en" / f"{name}.ipynb", f"en/{name}.html", "en", soup) for name in names]
    with pytest.raises(website.Broken, match=re.escape(said)):
        list(website.make_links(pages[0], {page.source: page for page in pages}))


def test_a_recording_that_is_missing_stops_the_build(course):
    cell = nbformat.v4.new_code_cell("x", metadata={"tags": ["replay:gone"]})
    with pytest.raises(website.Broken, match="the recording of the tag replay:gone"):
        website._put_replay(cell, Path("lesson.ipynb"), "en")


def test_headings_get_the_anchors_that_links_to_them_use():
    assert website.slugs(["Tidy up", "What's *new*?", "Tidy up", "정리 하기"]) == [
        "tidy-up",
        "whats-new",
        "tidy-up-1",
        "정리-하기",
    ]


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def opened(browser, site):
    """Opens a page as a file, without a network; after the test no script has failed and only files were asked for."""
    contexts, asked, failed = [], [], []

    def open_page(name, **options):
        contexts.append(browser.new_context(offline=True, reduced_motion="reduce", **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert failed == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(("language", "words"), [("en", "boot id"), ("ko", "커널 부트")])
def test_search_finds_words_and_is_done_with_keys(opened, language, words):
    page = opened(f"{language}/index.html")
    page.get_by_role("searchbox").focus()
    page.keyboard.type(words)
    found = page.locator("#search-found a")
    found.first.wait_for()
    assert "01-welcome.html#" in " ".join(one.get_attribute("href") for one in found.all())
    marked = {one.lower() for one in page.locator("#search-found mark").all_inner_texts()}
    assert marked == set(words.split())
    page.keyboard.press("ArrowDown")
    address = found.first.get_attribute("href")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url.endswith(address.removeprefix(".."))
    assert page.locator(":target").is_visible()


def test_search_says_that_there_is_nothing_and_goes_away(opened):
    page = opened("ko/01-welcome.html")
    page.get_by_role("searchbox").fill("없는말이다")
    page.get_by_role("status").get_by_text("찾은 내용이 없습니다").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#search-found").is_hidden()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["index", REPLAYED])
def test_axe_finds_nothing(opened, language, name):
    page = opened(f"{language}/{name}.html")
    page.get_by_role("searchbox").fill("kernel")
    page.locator("#search-found a").first.wait_for()
    assert violations(page, "html") == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert violations(page, "html", "color-contrast") == []


def test_a_replay_moves(opened):
    page = opened(f"ko/{REPLAYED}.html")
    face = page.locator(".vmc-replay-face")
    face.wait_for()
    recording = json.loads((ROOT / "course/recordings/pause.recording.json").read_text("utf-8"))
    assert recording["place"] in face.inner_text()
    slider = page.get_by_role("slider")
    slider.press("ArrowRight")
    assert float(slider.get_attribute("aria-valuetext").split()[0]) > 0
    slider.press("End")
    assert float(slider.get_attribute("aria-valuetext").split()[0]) == round(recording["frames"][-1][0], 1)


def test_a_chart_is_drawn_as_wide_as_there_is_room(opened):
    page = opened("en/03-first-container.html", viewport={"width": 360, "height": 800})
    page.locator(".chart .trace").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_text("The chart's numbers").click()
    assert page.get_by_role("table", name="Starting the same program").get_by_role("rowheader").count() == 4
    assert violations(page, ".chart") == []


def test_print_leaves_the_text_only(opened):
    page = opened("en/01-welcome.html", color_scheme="dark")
    page.emulate_media(media="print")
    for part in ("header", ".contents", ".around", "footer"):
        assert page.locator(part).is_hidden()
    assert page.get_by_role("main").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


# The ninth names files of the engine whose names are wider than a telephone.
@pytest.mark.parametrize("name", ["en/index", f"ko/{REPLAYED}", "en/09-namespaces"])
def test_a_narrow_page_does_not_scroll_sideways(opened, name):
    page = opened(f"{name}.html", viewport={"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_other_language_opens_where_the_reader_is(opened):
    page = opened("en/01-welcome.html")
    page.get_by_role("link", name="Tidy up").click()
    page.get_by_role("link", name="한국어").click()
    page.wait_for_url("**/ko/01-welcome.html#tidy-up")
    assert page.locator(":target").inner_text() == "정리하기"
