"""The page in a browser: a picture, a segment, a slider, a file to keep, and a file that is bad."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

from mask_former.commands import web
from mask_former.d2.data.reading import rgb_to_id
from tests.demo.running import find_chromium

pytestmark = pytest.mark.web


@pytest.fixture
def address(checkpoint: Path) -> Iterator[str]:
    """Of a server in this process."""
    args = web.parse_args(["--weights", str(checkpoint), "--opts", "MODEL.DEVICE", "cpu"])
    server = make_server("127.0.0.1", 0, web.create_app(web.load_model(args)), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as driver:
        # As root, which containers run as, Chromium's sandbox does not work.
        browser = driver.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        browser.close()
    assert faults == []


def wait_for(page: Page, selector: str, text: str) -> str:
    page.locator(selector, has_text=text).wait_for()
    return page.locator(selector).inner_text()


def test_a_visit(page: Page, address: str, pictures: list[Path], tmp_path: Path) -> None:
    page.goto(address)
    page.locator("#task option").first.wait_for(state="attached")
    assert page.locator("#task").input_value() == "panoptic"
    page.locator("#file").set_input_files(pictures[0])
    assert "0 of 3 queries used" in wait_for(page, "#summary", pictures[0].name)

    # Sliders: by value, and by the keyboard.
    page.locator("#overlap").fill("0")
    page.locator("#object_mask").fill("0.1")
    assert "OVERLAP_THRESHOLD 0.00" in wait_for(page, "#thresholds", "OBJECT_MASK_THRESHOLD 0.10")
    page.locator("#object_mask").press("ArrowLeft")
    assert "0.09" in wait_for(page, "#thresholds", "OBJECT_MASK_THRESHOLD 0.09")
    assert "0 of 3 queries used" not in page.locator("#summary").inner_text()

    # Files to keep.
    with page.expect_download() as download:
        page.locator("#get_json").click()
    assert download.value.suggested_filename == f"{pictures[0].stem}.json"
    download.value.save_as(tmp_path / "result.json")
    segments = json.loads((tmp_path / "result.json").read_text())["segments_info"]
    with page.expect_download() as download:
        page.locator("#get_label").click()
    assert download.value.suggested_filename == f"{pictures[0].stem}.label.png"
    download.value.save_as(tmp_path / "label.png")
    ids = rgb_to_id(np.asarray(Image.open(tmp_path / "label.png")))

    # The segment at a pixel, and its query.
    for segment in segments:
        rows, columns = np.nonzero(ids == segment["id"])
        assert len(rows) == segment["area"]
        middle = len(rows) // 2
        box = page.locator("#color").bounding_box()
        scale = box["width"] / ids.shape[1]
        place = {"x": (columns[middle] + 0.5) * scale, "y": (rows[middle] + 0.5) * scale}
        page.locator("#color").hover(position=place)
        tip = page.locator("#tip").inner_text()
        assert tip.startswith(f"{segment['category']}, {100 * segment['score']:.1f} %")
        page.locator("#color").click(position=place)
        assert f"It is sure of {segment['category']}" in page.locator("#why").inner_text()
        assert page.locator("#queries tr.chosen").count() == 1
    assert len(segments) > 0
    page.locator("#mask").evaluate("image => image.decode()")

    # A query that is dropped says why.
    page.locator("#object_mask").fill("1")
    wait_for(page, "#thresholds", "OBJECT_MASK_THRESHOLD 1.00")
    page.locator("#queries tr").first.click()
    assert "not above OBJECT_MASK_THRESHOLD 1.00" in page.locator("#why").inner_text()

    # A bad file gets a sentence, and the result before stays.
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    page.locator("#file").set_input_files(bad)
    assert "notes.png cannot be read as a picture" in wait_for(page, "#error", "notes.png")
    assert pictures[0].name in page.locator("#summary").inner_text()


def test_classes_and_tasks(page: Page, address: str, pictures: list[Path]) -> None:
    page.goto(address)
    page.locator("#file").set_input_files(pictures[0])
    wait_for(page, "#summary", pictures[0].name)
    page.locator("#task").select_option("semantic")
    wait_for(page, "#summary", " classes.")
    assert "drops none" in page.locator("#note").inner_text()
    assert "0 classes" not in page.locator("#summary").inner_text()
    page.get_by_role("button", name="none").click()
    wait_for(page, "#summary", ": 0 classes.")
    page.get_by_role("button", name="all").click()
    page.locator("#task").select_option("instance")
    page.locator("#score").fill("0.02")
    wait_for(page, "#summary", " instances.")
