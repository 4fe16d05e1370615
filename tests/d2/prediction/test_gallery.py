"""The page has what the rows say, and nothing that a name could smuggle in."""

import base64
import io
import json
from html.parser import HTMLParser

from PIL import Image

from mask_former.d2.prediction import gallery
from mask_former.d2.prediction.gallery import best_scores, write_gallery
from mask_former.d2.prediction.journal import Rows

CLASSES = [
    {"id": 0, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
    {"id": 1, "name": "<b>dog</b>", "isthing": 1, "color": [200, 0, 0]},
    {"id": 2, "name": "cat", "isthing": 1, "color": [0, 200, 0]},
]
SEGMENTS = [
    {"category_id": 0, "area": 5},
    {"category_id": 1, "area": 5, "score": 0.75},
    {"category_id": 1, "area": 5, "score": 0.5},
]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def write(folder, number, name="{}.jpg"):
    (folder / "thumbnail").mkdir()
    lines = []
    for i in range(number):
        Image.new("RGB", (8, 6)).save(folder / "thumbnail" / f"{i}.jpg")
        files = {"thumbnail": f"thumbnail/{i}.jpg"}
        lines.append({"name": name.format(i), "files": files, "segments_info": SEGMENTS})
    lines.append({"name": "~", "error": "bad"})
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_gallery(folder / "gallery.html", folder, Rows([folder / "results.jsonl"]), CLASSES)
    return Page((folder / "gallery.html").read_text())


def test_best_scores():
    assert best_scores({"segments_info": SEGMENTS}) == {0: None, 1: 0.75}
    assert best_scores({"classes": SEGMENTS[:1]}) == {0: None}
    # Regions of classes, which have no score, would hide those of the instances.
    assert best_scores({"classes": SEGMENTS[:2], "instances": SEGMENTS[2:]}) == {1: 0.5}
    assert best_scores({"classes": SEGMENTS[:2], "instances": []}) == {}


def test_thumbnails_scores_and_classes(tmp_path):
    page = write(tmp_path, 3)
    figures = page.all("figure")
    assert [figure["data-name"] for figure in figures] == ["0.jpg", "1.jpg", "2.jpg"]
    assert json.loads(figures[0]["data-scores"]) == {"0": None, "1": 0.75}
    content = page.all("img")[0]["src"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (8, 6)
    assert [option["value"] for option in page.all("option")] == ["", "0", "1"]
    assert not page.all("b")
    assert "</i>sky</span>" in (tmp_path / "gallery.html").read_text()  # which has no score
    assert "</i>&lt;b&gt;dog&lt;/b&gt; 0.75</span>" in (tmp_path / "gallery.html").read_text()
    assert not [a for _, a in page.found if "http" in str(a.get("src", a.get("href", "")))]


def test_names_are_text(tmp_path):
    page = write(tmp_path, 1, name='"><script>{}.jpg')
    assert len(page.all("script")) == 1
    assert page.all("figure")[0]["data-name"] == '"><script>0.jpg'


def test_of_too_many_pictures_some(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 4)
    page = write(tmp_path, 9)  # and a failure
    names = [figure["data-name"] for figure in page.all("figure")]
    assert names == ["0.jpg", "3.jpg", "6.jpg"]
    assert "3 of 10 pictures" in (tmp_path / "gallery.html").read_text()
