"""Many pictures become files; what was ended goes on; parts make the whole."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools.coco import COCO

from mask_former.d2.data.reading import read_picture
from mask_former.d2.errors import InputError
from mask_former.d2.prediction.journal import Part
from mask_former.d2.prediction.running import merge, predict
from mask_former.d2.prediction.worker import FORMATS, Worker, in_order
from mask_former.d2.predictor import Predictor
from tests.d2.prediction.conftest import INSTANCE, PANOPTIC, draw
from tests.d2.tiny_models import MASK_FORMER

ROOT = Path(__file__).parents[3]
NAMES = [
    "000.jpg",
    "003.png",
    "006.jpg",
    "sub/001.png",
    "sub/002.jpg",
    "sub/004.jpg",
    "sub/005.png",
]
BROKEN = "sub/005.png"


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def contents(folder) -> dict[str, bytes]:
    """All files but those of the parts."""
    files = [path for path in folder.rglob("*") if path.is_file() and "-of-" not in path.name]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    found.pop("settings.json", None)
    return found


def png(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_format_of_panoptic_segments(make_job, photos, batch_size):
    job = make_job(formats=FORMATS, thumbnails=True, batch_size=batch_size)
    done = predict(job, str(photos))
    assert done.pictures == 7
    assert list(done.failures) == [BROKEN]
    rows = rows_of(job.output)
    assert [row["name"] for row in rows] == NAMES
    assert "error" in rows[-1]
    predictor = Predictor(job.configuration())
    coco = COCO(str(job.output / "coco.json"))
    panoptic = json.loads((job.output / "panoptic.json").read_text())
    for number, row in enumerate(rows[:-1], start=1):
        picture = read_picture(row["file"], "BGR")
        ids, segments = predictor(picture)["panoptic_seg"]
        assert row["segments_info"], "the model finds something"
        saved = rgb2id(png(job.output / row["files"]["panoptic"]))
        assert (saved != ids.numpy()).mean() < 0.01  # batches round otherwise
        assert len(row["segments_info"]) == len(segments)
        labels = png(job.output / row["files"]["label"])
        assert labels.shape == (row["height"], row["width"]) == picture.shape[:2]
        expected = torch.tensor([255, *(s["category_id"] for s in segments)])[ids.long()]
        assert (labels != expected.numpy()).mean() < 0.01
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        for annotation, segment in zip(annotations, row["segments_info"], strict=True):
            assert annotation["category_id"] == segment["category_id"]
            assert np.array_equal(coco.annToMask(annotation), saved == segment["id"])
        entry = panoptic["annotations"][number - 1]
        assert entry["image_id"] == number == coco.loadImgs([number])[0]["id"]
        assert (job.output / "panoptic" / entry["file_name"]).is_file()
        assert [s["id"] for s in entry["segments_info"]] == [s["id"] for s in segments]
        assert Image.open(job.output / row["files"]["overlay"]).size[0] > row["width"]  # enlarged
        assert max(Image.open(job.output / row["files"]["thumbnail"]).size) <= 256
    shapes = {c["name"]: c["isthing"] for c in panoptic["categories"]}
    assert shapes["sky"] == 0
    assert sum(shapes.values()) > 0


def test_classes_and_instances(make_job, photos):
    job = make_job({}, formats=["label", "color"])
    predict(job, str(photos))
    row = rows_of(job.output)[0]
    labels = png(job.output / row["files"]["label"])
    areas = {entry["category_id"]: entry["area"] for entry in row["classes"]}
    assert areas == {k: int((labels == k).sum()) for k in np.unique(labels).tolist()}
    job = make_job(INSTANCE, output=job.output / "b", formats=["coco", "label"], min_score=0.0)
    predict(job, str(photos))
    every = rows_of(job.output)[0]["instances"]
    middle = sorted(entry["score"] for entry in every)[len(every) // 2]
    few = make_job(INSTANCE, output=job.output / "few", min_score=middle)
    predict(few, str(photos))
    assert len(every) > len(rows_of(few.output)[0]["instances"]) > 0


def test_coco_has_the_instances_and_not_the_classes_beside_them(make_job, photos):
    job = make_job({f"{MASK_FORMER}.TEST.INSTANCE_ON": True}, formats=["coco"], min_score=0.0)
    predict(job, str(photos))
    row = rows_of(job.output)[0]
    assert row["classes"]
    coco = COCO(str(job.output / "coco.json"))
    scores = [entry["score"] for entry in coco.loadAnns(coco.getAnnIds(imgIds=[1]))]
    assert scores == [entry["score"] for entry in row["instances"]]


def test_tiles(make_job, photos):
    tiles = {f"{MASK_FORMER}.TEST.TILES": "[64, 8]", "INPUT.MIN_SIZE_TEST": 90}
    job = make_job(tiles)
    predict(job, str(photos))
    predictor, plain = Predictor(job.configuration()), Predictor(make_job({}).configuration())
    different = 0
    for row in rows_of(job.output)[:-1]:
        picture = read_picture(row["file"], "BGR")
        labels = png(job.output / row["files"]["label"])
        assert np.array_equal(labels, predictor(picture)["sem_seg"].numpy())
        different += (labels != plain(picture)["sem_seg"].numpy()).sum()
    assert different > 0


def test_other_weights_of_the_same_name(make_job, photos, tmp_path):
    job = make_job()
    weights = tmp_path / "model.pth"
    weights.write_bytes(Path(job.weights).read_bytes())
    job = job._replace(weights=str(weights))
    predict(job, str(photos))
    os.utime(weights, (0, 0))  # as if it was trained anew
    with pytest.raises(InputError, match="whose weights' size and time was"):
        predict(job, str(photos))


def test_a_format_that_the_model_does_not_give(make_job, photos):
    with pytest.raises(InputError, match="--format panoptic needs panoptic segments"):
        predict(make_job({}, formats=["panoptic"]), str(photos))


def test_results_are_not_written_among_the_pictures(make_job, photos):
    with pytest.raises(InputError, match="the next run would take overlays for pictures"):
        predict(make_job(output=photos / "out"), str(photos))


def test_a_run_that_ended_goes_on_and_writes_nothing_twice(make_job, photos, tmp_path):
    whole = make_job(output=tmp_path / "whole", formats=FORMATS, thumbnails=True)
    predict(whole, str(photos))
    job = make_job(formats=FORMATS, thumbnails=True)

    class End(Exception):
        pass

    def ends(job, cfg, items):
        for i, row in enumerate(Worker(job, cfg).rows(items)):
            if i == 3:
                raise End
            yield row

    with pytest.raises(End):
        predict(job, str(photos), rows_of=ends)
    assert [row["name"] for row in rows_of(job.output)] == NAMES[:3]
    (job.output / "label" / "003.png.99.unfinished").touch()
    written = {p: p.stat().st_mtime_ns for p in (job.output / "label").glob("00*.png")}
    done = predict(job, str(photos))
    assert done.pictures == 4
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert contents(job.output) == contents(whole.output)
    # The bad picture alone is tried again, and then is good.
    draw(photos, 7)
    done = predict(job, str(photos))
    assert (done.pictures, done.failures) == (1, {})
    assert [row["name"] for row in rows_of(job.output)] == NAMES
    assert predict(job, str(photos)).pictures == 0


def test_pictures_that_are_gone_are_told(make_job, photos):
    """Their results would stay among those of the input."""
    job = make_job(formats=["coco"])
    predict(job, str(photos))
    (photos / BROKEN).unlink()  # has no results
    assert predict(job, str(photos)).pictures == 0
    (photos / "000.jpg").rename(photos / "other.jpg")
    before = contents(job.output)
    with pytest.raises(
        InputError,
        match=r"1 picture\(s\), 000\.jpg among them, that this run.s list of .* does not have: put",
    ):
        predict(job, str(photos))
    assert contents(job.output) == before


def test_parts_make_the_whole(make_job, photos, tmp_path):
    whole = make_job(output=tmp_path / "whole", formats=FORMATS, thumbnails=True)
    predict(whole, str(photos))
    job = make_job(formats=FORMATS, thumbnails=True)
    with pytest.raises(InputError, match="those there are: none"):
        merge(job.output)
    assert predict(job, str(photos), Part(1, 3)).pictures == 2
    predict(job, str(photos), Part(0, 3))
    with pytest.raises(InputError, match="has results of --shard 0/3, but this is 0/2: give all"):
        predict(job, str(photos), Part(0, 2))
    with pytest.raises(InputError, match="not all pictures of parts 2/3 are done"):
        merge(job.output)
    predict(job, str(photos), Part(2, 3))
    done = merge(job.output)
    assert (done.pictures, list(done.failures)) == (7, [BROKEN])
    assert contents(job.output) == contents(whole.output)
    assert list(merge(job.output).failures) == [BROKEN]  # as often as one likes


def test_a_disk_that_is_full(make_job, photos):
    job = make_job()
    job.output.mkdir()
    (job.output / "label").touch()  # no folder can be made here, also by root
    with pytest.raises(InputError, match=r"label/.*\.png cannot be written"):
        predict(job, str(photos))


def test_calls_are_made_ahead_and_given_in_order():
    from concurrent.futures import ThreadPoolExecutor

    started = []

    def calls():
        for i in range(20):
            started.append(i)
            yield lambda i=i: time.sleep(0.002 * (i % 3)) or i

    with ThreadPoolExecutor(4) as pool:
        for number, future in enumerate(in_order(pool, calls(), 5)):
            assert future.result() == number
            assert len(started) <= number + 7
    assert len(started) == 20


def test_memory_stays_flat(make_job, tmp_path):
    """Of many pictures only those in flight are held, with their results, whatever their number."""
    photos = draw(tmp_path / "many", 80)
    job = make_job(formats=["label", "overlay"])
    seen, most = [], 0

    class Watched(Worker):
        def _load(self, item, reader):
            loaded = super()._load(item, reader)
            seen.append(weakref.ref(loaded.picture))
            return loaded

        def _write(self, item, picture, result):
            seen.append(weakref.ref(result["panoptic_seg"][0]))
            return super()._write(item, picture, result)

    def watched(job, cfg, items):
        nonlocal most
        for row in Watched(job, cfg).rows(items):
            most = max(most, sum(thing() is not None for thing in seen))
            yield row

    assert predict(job, str(photos), rows_of=watched).pictures == 80
    assert len(seen) == 160
    assert 0 < most <= 32


@pytest.mark.nightly
def test_a_kill_in_the_middle(make_job, tmp_path):
    photos = draw(tmp_path / "many", 120)
    whole, job = make_job(output=tmp_path / "whole", formats=["coco", "label"]), make_job()
    predict(whole, str(photos))
    command = [sys.executable, "tools/predict.py", job.weights, str(photos), str(job.output)]
    command += ["--format", "coco", "label", "--opts", *job.opts]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kills = 0
    while True:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        journal, before = job.output / "results.jsonl", 0
        if journal.is_file():
            before = len(rows_of(job.output))
        while process.poll() is None and kills < 3:
            lines = journal.read_text().count("\n") if journal.is_file() else 0
            if lines >= before + 20:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        if process.wait() == 0:
            break
    assert kills == 3
    assert contents(job.output) == contents(whole.output)


def test_panoptic_results_are_not_formed_twice(make_job):
    test = make_job(PANOPTIC).configuration().MODEL.MASK_FORMER.TEST
    assert (test.PANOPTIC_ON, test.SEMANTIC_ON, test.INSTANCE_ON) == (True, False, False)
