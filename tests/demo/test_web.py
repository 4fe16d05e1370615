"""What the page asks its server for, without a browser."""

import json
import socket
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from mask_former.commands import web
from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import load_predictor
from mask_former.demo import viewing
from tests.demo.running import SHAPES, read

LOW = {"object_mask": "0.1", "overlap": "0"}


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> viewing.Model:
    args = web.parse_args(["--weights", str(checkpoint), "--opts", "MODEL.DEVICE", "cpu"])
    return web.load_model(args)


@pytest.fixture
def client(model: viewing.Model) -> FlaskClient:
    model.held.clear()
    return web.create_app(model).test_client()


def give(client: FlaskClient, content: bytes, name: str):
    return client.post("/pictures", data={"picture": (BytesIO(content), name)})


@pytest.fixture
def key(client: FlaskClient, pictures: list[Path]) -> str:
    answer = give(client, pictures[0].read_bytes(), pictures[0].name)
    assert [*answer.json] == ["key"]
    return answer.json["key"]


def get_picture(client: FlaskClient, key: str, kind: str, **query: str) -> np.ndarray:
    answer = client.get(f"/pictures/{key}/{kind}.png", query_string=LOW | query)
    assert answer.status_code == 200
    return np.asarray(Image.open(BytesIO(answer.data)))


def error(answer) -> str:
    assert answer.status_code >= 400
    assert list(answer.json) == ["error"]
    assert "\n" not in answer.json["error"]
    return answer.json["error"]


def test_the_page_and_the_model(client: FlaskClient, checkpoint: Path) -> None:
    page = client.get("/")
    assert page.mimetype == "text/html"
    assert b"OBJECT_MASK_THRESHOLD" in page.data
    told = client.get("/model").json
    assert told["weights"] == checkpoint.name
    assert told["tasks"] == ["panoptic", "instance", "semantic"]
    assert [entry["name"] for entry in told["classes"]][:2] == ["sky", "grass"]
    assert (told["object_mask"], told["overlap"]) == (0.8, 0.5)


def test_the_report_is_the_predictors(
    client: FlaskClient, key: str, pictures: list[Path], checkpoint: Path
) -> None:
    test = "MODEL.MASK_FORMER.TEST"
    opts = [f"{test}.OBJECT_MASK_THRESHOLD", "0.1", f"{test}.OVERLAP_THRESHOLD", "0.0"]
    predictor = load_predictor(None, str(checkpoint), [*opts, "MODEL.DEVICE", "cpu"])
    result = predictor(cv2.imread(str(pictures[0])))
    ids, segments = result["panoptic_seg"]
    report = client.get(f"/pictures/{key}/report", query_string=LOW).json
    assert report["kind"] == "segments_info"
    got = [(r["id"], r["category_id"], r["score"], r["area"]) for r in report["regions"]]
    assert got == [(s["id"], s["category_id"], s["score"], s["area"]) for s in segments]
    assert got
    assert len(report["queries"]) == 3
    assert report["used"] == sum(query["reason"] == "kept" for query in report["queries"])
    assert len(report["thresholds"]) == 4
    label = rgb_to_id(get_picture(client, key, "label"))
    assert (label == ids.numpy()).all()
    numbered = rgb_to_id(get_picture(client, key, "ids"))
    for i, region in enumerate(report["regions"], start=1):
        assert ((numbered == i) == (label == region["id"])).all()
    semantic = get_picture(client, key, "label", task="semantic")
    assert (semantic == result["sem_seg"].argmax(dim=0).numpy()).all()


def test_nothing_is_above_a_threshold_of_1(client: FlaskClient, key: str) -> None:
    report = client.get(f"/pictures/{key}/report", query_string={"object_mask": "1"}).json
    assert (report["regions"], report["used"]) == ([], 0)
    assert {query["reason"] for query in report["queries"]} <= {"unsure", "no object"}


def test_pictures(client: FlaskClient, key: str, pictures: list[Path]) -> None:
    assert (get_picture(client, key, "picture") == read(pictures[0])).all()
    assert get_picture(client, key, "overlay").shape == (512, 512, 3)
    assert get_picture(client, key, "color").shape == (128, 128)
    mask = client.get(f"/pictures/{key}/queries/2.png", query_string={"side": 32})
    assert Image.open(BytesIO(mask.data)).size == (32, 32)
    assert error(client.get(f"/pictures/{key}/queries/3.png")) == "there is no query 3"


def test_a_mask_glows() -> None:
    image, mask = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]], np.uint8)
    # 0.45 x 100; 0.35 x 100 + 0.65 x (255, 190, 40)
    assert np.asarray(viewing.glow(image, mask, 9)).tolist() == [[[45, 45, 45], [201, 158, 61]]]


def test_classes_to_show(client: FlaskClient, key: str) -> None:
    everything = client.get(f"/pictures/{key}/report", query_string=LOW | {"task": "semantic"}).json
    shown = everything["regions"][0]["category_id"]
    some = LOW | {"task": "semantic", "classes": str(shown)}
    report = client.get(f"/pictures/{key}/report", query_string=some).json
    assert [r["category_id"] for r in report["regions"]] == [shown]
    assert "drops none" in report["note"]
    label = get_picture(client, key, "label", task="semantic", classes=str(shown))
    assert set(np.unique(label)) <= {shown, 255}
    none = client.get(f"/pictures/{key}/report", query_string=LOW | {"classes": ""}).json
    assert none["regions"] == []


def test_instances(client: FlaskClient, key: str) -> None:
    view = LOW | {"task": "instance", "score": "0"}
    report = client.get(f"/pictures/{key}/report", query_string=view).json
    assert report["kind"] == "instances"
    assert "Instances are pairs" in report["note"]
    scores = [region["score"] for region in report["regions"]]
    few = client.get(f"/pictures/{key}/report", query_string=view | {"score": str(scores[1])}).json
    assert [r["score"] for r in few["regions"]] == scores[:2]


def test_tiles_are_told_to_be_of_no_account(checkpoint: Path, pictures: list[Path]) -> None:
    opts = ["MODEL.DEVICE", "cpu", "MODEL.MASK_FORMER.TEST.TILES", "[64, 8]"]
    model = web.load_model(web.parse_args(["--weights", str(checkpoint), "--opts", *opts]))
    client = web.create_app(model).test_client()
    key = give(client, pictures[0].read_bytes(), "a.png").json["key"]
    for task, told in (("panoptic", ""), ("semantic", "drops none")):
        note = client.get(f"/pictures/{key}/report", query_string={"task": task}).json["note"]
        assert note.startswith("MODEL.MASK_FORMER.TEST.TILES is [64, 8], but queries belong to one")
        assert told in note


def test_downloads(client: FlaskClient, key: str, pictures: list[Path]) -> None:
    stem = pictures[0].stem
    for kind in ("label", "color", "overlay"):
        view = LOW | {"download": "1"}
        answer = client.get(f"/pictures/{key}/{kind}.png", query_string=view)
        name = answer.headers["Content-Disposition"]
        assert name == f"attachment; filename={stem}.{kind}.png"
    answer = client.get(f"/pictures/{key}/result.json", query_string=LOW)
    assert answer.headers["Content-Disposition"] == f"attachment; filename={stem}.json"
    content = json.loads(answer.data)
    regions = client.get(f"/pictures/{key}/report", query_string=LOW).json["regions"]
    for region in regions:
        del region["color"]
    assert content == {"height": 128, "width": 128, "segments_info": regions}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"task": "depth"}, "task is 'depth'; this model can do panoptic, instance, semantic"),
        ({"overlap": "1.5"}, "overlap is '1.5'; give a number from 0 to 1"),
        ({"object_mask": "much"}, "object_mask is 'much'; give a number from 0 to 1"),
        ({"score": "nan"}, "score is 'nan'; give a number from 0 to 1"),
        ({"classes": "1,7"}, "classes is '1,7'; give ids from 0 to 6"),
    ],
)
def test_bad_questions(client: FlaskClient, key: str, query: dict, sentence: str) -> None:
    assert error(client.get(f"/pictures/{key}/report", query_string=query)) == sentence


def test_bad_files(client: FlaskClient, pictures: list[Path], monkeypatch) -> None:
    told = error(give(client, b"no picture", "notes.txt"))
    assert told.startswith("notes.txt cannot be read as a picture")
    told = error(give(client, pictures[0].read_bytes()[:500], "../half.jpg"))
    assert told.startswith("half.jpg cannot be read as a picture")
    floats = BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats, "TIFF")
    assert "has mode F of Pillow" in error(give(client, floats.getvalue(), "depth.tif"))
    assert "no picture has come" in error(client.post("/pictures"))
    monkeypatch.setattr(viewing, "MEGAPIXELS", 0.01)
    told = error(give(client, pictures[0].read_bytes(), "large.jpg"))
    assert told.startswith("large.jpg has 128 x 128 pixels; the page takes 0.01 megapixels")


def test_a_file_that_is_too_large(model: viewing.Model) -> None:
    app = web.create_app(model)
    app.config["MAX_CONTENT_LENGTH"] = 100
    told = error(give(app.test_client(), bytes(1000), "large.png"))
    assert told.startswith("the file has more than 64 MB")


def test_old_pictures_are_forgotten(
    client: FlaskClient, key: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewing, "HELD", 1)
    later = give(client, pictures[1].read_bytes(), "later.jpg").json["key"]
    assert client.get(f"/pictures/{later}/report").status_code == 200
    assert "no longer held" in error(client.get(f"/pictures/{key}/report"))


def test_a_wrong_address(client: FlaskClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert "not found" in error(client.get("/nothing"))


def test_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match=r"^error: there are no weights .*run `mask_former shapes-demo`"
    ):
        web.main([])


def test_a_model_without_queries(weights: list[str]) -> None:
    baseline = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.WEIGHTS", ""]
    baseline += ["MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead"]
    baseline += ["MODEL.MASK_FORMER.VALID_MASK", "False", "MODEL.DEVICE", "cpu"]
    baseline += ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    argv = [*SHAPES, "--weights", weights[-1], "--opts", *baseline]
    with pytest.raises(InputError, match="a model without queries"):
        web.load_model(web.parse_args(argv))


def test_a_port_that_is_taken(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv = ["--weights", str(checkpoint), "--port", str(taken.getsockname()[1])]
        with pytest.raises(SystemExit):
            web.main([*argv, "--opts", "MODEL.DEVICE", "cpu"])
    assert "is in use" in capsys.readouterr().err
