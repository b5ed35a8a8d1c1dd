"""The page in a real browser with the network off: dividers, zoom, time line, themes, narrow screens, contrast."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pages import make_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install mlkit[dev]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH: apt-get install chromium")

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
MakeRun = Callable[..., Path]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a page without a network; at the end it must have said nothing, asked nothing and shown no dialog."""
    contexts, wrong = [], []

    def opened(path: Path, **options: Any) -> Any:
        given = {"viewport": {"width": 1200, "height": 900}, "offline": True, "reduced_motion": "reduce", **options}
        context = browser.new_context(**given)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:80]}"))
        folder = path.parent.as_uri()
        page.on("request", lambda request: request.url.startswith(("data:", folder)) or wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def report(make_run: MakeRun, tmp_path: Path) -> Path:
    """Return the page of two runs with two images of 60x40 pixels."""
    return make_page(tmp_path / "report", (make_run("a"), make_run("b", gain_db=1.0)))


def until(page: Any, condition: str) -> None:
    """Wait for a condition, asked from outside: the page's policy forbids what Playwright's own wait does."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def divided(page: Any) -> float:
    """Return where the first image's divider is, in percent of the picture, as drawn."""
    stage, divider = page.locator(".stage").first.bounding_box(), page.locator(".divider").first.bounding_box()
    return float(100 * (divider["x"] + divider["width"] / 2 - stage["x"]) / stage["width"])


def clipped(page: Any) -> str:
    return str(page.locator(".stage .over").first.evaluate("one => getComputedStyle(one).clipPath"))


def transforms(page: Any, viewer: int = 0) -> list[str]:
    """Return how every picture of an image is moved and enlarged, in shares of its own size."""
    images = page.locator(".viewer").nth(viewer).locator("img")
    return list(images.evaluate_all("all => all.map(one => one.style.transform)"))


def test_the_divider_follows_the_mouse_and_cuts_the_upper_picture(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.locator(".stage").first.scroll_into_view_if_needed()
    assert divided(page) == pytest.approx(50, abs=0.5)
    box = page.locator(".divider").first.bounding_box()
    stage = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(stage["x"] + 0.2 * stage["width"], box["y"] + 10, steps=3)
    page.mouse.up()
    assert divided(page) == pytest.approx(20, abs=0.5)
    assert clipped(page) == "inset(0px 0px 0px 20%)"
    page.mouse.move(stage["x"] + 0.9 * stage["width"], box["y"] + 10)
    assert divided(page) == pytest.approx(20, abs=0.5), "it was let go"
    page.mouse.click(stage["x"] + 0.7 * stage["width"], box["y"] + 10)
    assert divided(page) == pytest.approx(70, abs=0.5)
    assert page.locator(".divider").nth(1).get_attribute("aria-valuenow") == "50", "the other image's stays"


def test_the_divider_moves_by_the_keyboard_and_says_where_it_is(open_page: Open, report: Path) -> None:
    page = open_page(report)
    divider = page.locator(".divider").first
    divider.focus()
    steps = {
        "ArrowRight": 52,
        "ArrowLeft": 50,
        "Shift+ArrowRight": 60,
        "Home": 0,
        "ArrowDown": 0,
        "End": 100,
        "PageDown": 90,
    }
    for key, expected in steps.items():
        page.keyboard.press(key)
        assert divider.get_attribute("aria-valuenow") == str(expected)
        assert divider.get_attribute("aria-valuetext") == f"{expected} % left"
        assert divided(page) == pytest.approx(expected, abs=0.5)


def test_the_divider_follows_a_finger(open_page: Open, report: Path) -> None:
    page = open_page(report, has_touch=True, viewport={"width": 390, "height": 800})
    page.locator(".stage").first.scroll_into_view_if_needed()
    box, stage = page.locator(".divider").first.bounding_box(), page.locator(".stage").first.bounding_box()
    client = page.context.new_cdp_session(page)
    y = stage["y"] + stage["height"] / 2
    for kind, x in (("touchStart", box["x"] + box["width"] / 2), ("touchMove", stage["x"] + 0.5 * stage["width"] + 30),
                    ("touchMove", stage["x"] + 0.8 * stage["width"]), ("touchEnd", None)):  # fmt: skip
        points = [] if x is None else [{"x": x, "y": y}]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert divided(page) == pytest.approx(80, abs=1.5)


def test_zoom_moves_both_sides_and_the_error_maps_together(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.locator(".stage").first.scroll_into_view_if_needed()
    assert len(transforms(page)) == 4 and set(transforms(page)) == {"translate(0%, 0%) scale(1)"}
    stage = page.locator(".stage").first.bounding_box()
    page.mouse.move(stage["x"] + 0.25 * stage["width"], stage["y"] + 0.25 * stage["height"])
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    until(page, "document.querySelector('.pane.zoomed') !== null")
    (moved,) = set(transforms(page))
    scale = float(moved.rpartition("scale(")[2].rstrip(")"))
    assert scale > 1.5
    share = float(moved.removeprefix("translate(").partition("%")[0]) / 100
    assert share == pytest.approx(0.25 * (1 - scale), rel=0.02), "what is below the mouse stays there"
    assert set(transforms(page, 1)) == {"translate(0%, 0%) scale(1)"}, "another image is not zoomed"
    # dragging moves all of them
    page.mouse.down()
    page.mouse.move(stage["x"] + 0.2 * stage["width"], stage["y"] + 0.2 * stage["height"], steps=2)
    page.mouse.up()
    (dragged,) = set(transforms(page))
    assert dragged != moved
    assert divided(page) == pytest.approx(50, abs=0.5), "dragging a zoomed picture leaves the divider"
    page.get_by_role("button", name="Fit").first.click()
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}


def test_zoom_by_keyboard_stays_inside_the_picture(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.locator(".errors .pane").first.focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert set(transforms(page)) == {"translate(-62.5%, -62.5%) scale(2.25)"}
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert set(transforms(page)) == {"translate(-125%, -62.5%) scale(2.25)"}
    assert page.locator("[data-scale]").first.text_content() in ("2.3×", "2.2×")  # noqa: RUF001 - as the page has it
    page.keyboard.press("0")
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}


def test_a_double_click_zooms_to_where_it_was_and_leaves_the_divider(open_page: Open, report: Path) -> None:
    page = open_page(report)
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    stage.dblclick(position={"x": 0.25 * box["width"], "y": 0.5 * box["height"]})
    (zoomed,) = set(transforms(page))
    x, y = (float(share) for share in re.findall(r"(-?[\d.]+)%", zoomed))
    assert zoomed.endswith("scale(4)") and (x, y) == pytest.approx((-75, -150), abs=1)
    assert divided(page) == pytest.approx(50, abs=0.5)
    stage.dblclick(position={"x": 0.25 * box["width"], "y": 0.5 * box["height"]})
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}


def test_a_plain_wheel_scrolls_the_page(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.locator(".stage").first.hover()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    until(page, f"scrollY > {before}")
    assert set(transforms(page)) == {"translate(0%, 0%) scale(1)"}


def test_other_pictures_can_be_chosen_for_either_side(open_page: Open, report: Path) -> None:
    page = open_page(report)
    page.get_by_label("Left").first.select_option("Truth")
    left = page.locator("img[data-show=left]").first
    assert left.get_attribute("alt").startswith("Truth: ")
    assert page.locator("[data-tag=left]").first.text_content() == "Truth"
    shown, key = left.get_attribute("src"), left.get_attribute("data-key")
    assert page.evaluate("([key, src]) => sources[key] === src", [key, shown])
    assert left.evaluate("async one => { await one.decode(); return one.naturalWidth }") == 60


def test_pictures_beside_the_page_are_shown(open_page: Open, make_run: MakeRun, tmp_path: Path) -> None:
    runs = make_run("a"), make_run("b", gain_db=1.0)
    page = open_page(make_page(tmp_path / "report", runs, budget_bytes=0))
    page.locator(".stage").first.scroll_into_view_if_needed()
    image = page.locator(".viewer img").first
    until(page, "document.querySelector('.viewer img').naturalWidth === 60")
    assert image.get_attribute("src") == "images/001-made-1.png"


def test_the_time_line_goes_through_the_checkpoints(open_page: Open, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"step {step}", gain_db=step / 100) for step in (100, 200, 300)]
    page = open_page(make_page(tmp_path / "report", runs, over_time=True))
    time = page.get_by_label("Checkpoint", exact=True)
    right = page.locator("img[data-show=right]")
    assert right.first.get_attribute("data-key") == "001-made-3"
    time.focus()
    page.keyboard.press("ArrowLeft")
    assert [right.nth(index).get_attribute("data-key") for index in (0, 1)] == ["001-made-2", "002-made-2"]
    assert page.locator(".errors").first.locator("figure:visible figcaption").all_text_contents() == [
        "|error| x8 of step 200"
    ]
    page.get_by_role("button", name="Play the checkpoints").click()
    until(page, "document.getElementById('time').value === '0'")


def test_the_theme_can_be_chosen_and_is_kept(open_page: Open, report: Path) -> None:
    page = open_page(report, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    for expected in ("Light", "Dark"):
        page.locator("#theme").click()
        assert page.locator("#theme").text_content() == expected
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark
    assert open_page(report, color_scheme="dark").evaluate(paper) == dark


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.unshift(rgba(getComputedStyle(one).backgroundColor));
    return layers.reduce((below, top) => below.map((v, i) => v + (top[i] - v) * top[3] / 255), [255, 255, 255]);
  };
  const faint = new Set();
  let looked = 0;
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    if (element.closest("script, style, .tag, noscript, option") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = light(rgba(element.namespaceURI.endsWith("svg") ? style.fill : style.color));
    const paper = light(behind(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const name = `${element.tagName}.${element.className.baseVal ?? element.className}`;
    looked += 1;
    if (ratio < 4.5) faint.add(`${ratio.toFixed(2)} ${name}`);
  }
  return { faint: [...faint], looked };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(
    open_page: Open, make_run: MakeRun, tmp_path: Path, scheme: str
) -> None:
    criteria = [{"metric": "psnr", "min": 1.5, "relative_to_baseline": True}, {"metric": "enl_ratio", "max": 0.5}]
    runs = make_run("a"), make_run("b", gain_db=2.0, criteria=criteria), make_run("c", gain_db=-1.0)
    page = open_page(make_page(tmp_path / "report", runs), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = page.evaluate(CONTRAST)
    assert found["faint"] == [] and found["looked"] > 150
    page.evaluate("document.documentElement.style.setProperty('--soft', '#888888')")
    assert page.evaluate(CONTRAST)["faint"] if scheme == "light" else True, "the measure sees what is faint"


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_no_screen_is_too_narrow(open_page: Open, make_run: MakeRun, tmp_path: Path, width: int) -> None:
    runs = make_run("a_rather_long_name_of_a_run_v1.2"), make_run("another_long_name_c16", gain_db=1.0)
    page = open_page(make_page(tmp_path / "report", runs), viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_can_be_reached_by_tab_in_the_order_of_the_page(open_page: Open, report: Path) -> None:
    page = open_page(report)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.className + '|' + (document.activeElement.textContent || '').trim()")
        )
    assert seen[0] == "skip|Skip to the content"
    assert [one for one in seen if one.startswith("divider")]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_names_with_markup_run_nothing(open_page: Open, make_run: MakeRun, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    ids = [f"{bad}{index}" for index in range(24)]
    runs = make_run("a", ids=ids), make_run("b", ids=ids, gain_db=1.0)
    page = open_page(make_page(tmp_path / "report", runs, command=bad, heading_text=bad, missing=bad))
    page.locator(".stage").first.scroll_into_view_if_needed()
    assert page.locator("h1").text_content() == bad
    assert page.locator(".image h3").first.text_content() == ids[0]
