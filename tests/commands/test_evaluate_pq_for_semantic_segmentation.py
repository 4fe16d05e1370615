"""PQ of semantic predictions, against panopticapi, against a slow reference and by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from mask_former.d2.data.datasets import register_all
from mask_former.d2.errors import InputError


def random_maps(seed: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth with void (= num_classes), and a prediction that is often right."""
    random = np.random.RandomState(seed)
    truth = random.randint(0, num_classes + 1, (4, 4)).repeat(3, 0).repeat(3, 1)
    predicted = np.where(
        random.rand(12, 12) < 0.75, truth, random.randint(0, num_classes, (12, 12))
    )
    moved = np.roll(predicted, random.randint(3), axis=1)
    return truth, np.where(moved == num_classes, random.randint(num_classes), moved)


def slow_counts(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> list[tuple]:
    """For each class (IoU if found, found, wrong, missed), by sets of pixels."""
    flat_truth, flat_predicted = truth.ravel().tolist(), predicted.ravel().tolist()
    void = {i for i, label in enumerate(flat_truth) if label == num_classes}
    counts = []
    for k in range(num_classes):
        a = {i for i, label in enumerate(flat_truth) if label == k}
        b = {i for i, label in enumerate(flat_predicted) if label == k}
        union = (a | b) - void
        iou = len(a & b) / len(union) if union else 0.0
        if iou > 0.5:
            counts.append((iou, 1, 0, 0))
        else:
            mostly_void = len(b & void) / len(b) > 0.5 if b else True
            counts.append((0.0, 0, int(not mostly_void), int(bool(a))))
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_counts_equal_a_slow_reference(tool: ModuleType, seed: int):
    num_classes = 2 + seed % 5
    counts = tool.SegmentCounts(num_classes)
    total = np.zeros((num_classes, 4))
    for i in range(3):
        truth, predicted = random_maps(10 * seed + i, num_classes)
        counts.add(truth, predicted)
        total += slow_counts(truth, predicted, num_classes)
    np.testing.assert_allclose(counts.iou, total[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(counts.found, total[:, 1])
    np.testing.assert_array_equal(counts.wrong, total[:, 2])
    np.testing.assert_array_equal(counts.missed, total[:, 3])


def as_segments(ids: np.ndarray, void: int, name: str) -> dict:
    segments = [
        {"id": k + 1, "category_id": k, "area": int((ids == k).sum()), "iscrowd": 0}
        for k in np.unique(ids).tolist()
        if k != void
    ]
    return {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}


def test_quality_equals_panopticapi(tool: ModuleType, tmp_path: Path):
    num_classes, pairs = 6, []
    counts = tool.SegmentCounts(num_classes)
    folders = tmp_path / "truth", tmp_path / "predicted"
    for folder in folders:
        folder.mkdir()
    for seed in range(12):
        maps = random_maps(seed, num_classes)
        counts.add(*maps)
        for folder, ids in zip(folders, maps, strict=True):
            colors = id2rgb(np.where(ids == num_classes, 0, ids + 1))
            Image.fromarray(colors).save(folder / f"{seed}.png")
        pairs.append(tuple(as_segments(ids, num_classes, str(seed)) for ids in maps))
    categories = {k: {"id": k, "isthing": 0} for k in range(num_classes)}
    stat = pq_compute_single_core(0, pairs, *map(str, folders), categories)
    expected, _ = stat.pq_average(categories, isthing=None)
    quality = counts.quality()
    assert quality.classes == expected["n"]
    assert quality[:3] == pytest.approx((expected["pq"], expected["sq"], expected["rq"]), rel=1e-9)
    assert 0.1 < quality.pq < 0.9


def test_by_hand(tool: ModuleType):
    counts = tool.SegmentCounts(4)
    # class 0: 6 pixels, 4 of them predicted, 1 of its predictions on class 1: IoU 4 / 7
    # class 1: 2 pixels, 1 of them predicted as 0, 1 as 2: missed
    # class 2: predicted on 2 pixels of 0, 1 of class 1 and 1 void: wrong
    # class 3: predicted on void alone: not counted
    truth = np.array([[0, 0, 0, 0, 0, 0, 1, 1, 4, 4]])
    predicted = np.array([[0, 0, 0, 0, 2, 2, 0, 2, 2, 3]])
    counts.add(truth, predicted)
    quality = counts.quality()
    assert quality.classes == 3
    assert quality.pq == pytest.approx(4 / 7 / 3)
    assert quality.sq == pytest.approx(4 / 7 / 3)
    assert quality.rq == pytest.approx(1 / 3)
    # of the pixels that are not void: class 0 4/7, class 1 0/2, class 2 0/3, class 3 does not occur
    assert counts.mean_iou() == pytest.approx(4 / 7 / 3)


def test_iou_of_a_half_is_not_found(tool: ModuleType):
    counts = tool.SegmentCounts(2)
    counts.add(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    assert counts.found.tolist() == [0, 1]
    assert counts.quality().sq == pytest.approx(2 / 3 / 2)


def test_void_of_a_half_is_held_against_the_model(tool: ModuleType):
    counts = tool.SegmentCounts(2)
    counts.add(np.array([[0, 0, 2, 0, 2, 2]]), np.array([[0, 1, 1, 0, 0, 0]]))
    assert counts.wrong.tolist() == [0, 1]
    counts.add(np.array([[0, 0, 2, 2]]), np.array([[0, 1, 1, 1]]))
    assert counts.wrong.tolist() == [1, 1]


def test_nothing_seen(tool: ModuleType):
    counts = tool.SegmentCounts(3)
    counts.add(np.full((2, 2), 3), np.zeros((2, 2), int))
    assert counts.quality() == (0.0, 0.0, 0.0, 0)
    assert counts.mean_iou() == 0.0


SETS = {
    "coco_2017_test_stuff_10k_sem_seg": (
        "coco/coco_stuff_10k/{}_detectron2/test", "png", np.uint8, 171, 255,
    ),
    "ade20k_full_sem_seg_val": (
        "ADE20K_2021_17_01/{}_detectron2/validation", "tif", np.uint16, 847, 65535,
    ),
}  # fmt: skip


@pytest.fixture
def run(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], tuple[str, dict, Path]]:
    """Writes a tiny data set, evaluates it by Detectron2, and runs the tool on its file."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def run_tool(name: str) -> tuple[str, dict, Path]:
        pattern, suffix, kind, num_classes, ignore = SETS[name]
        register_all()
        images, labels = (tmp_path / pattern.format(kind) for kind in ("images", "annotations"))
        for folder in (images, labels):
            folder.mkdir(parents=True)
        truths, predictions = {}, {}
        for i in range(4):
            truth, predicted = random_maps(i, 7)
            used = np.array([0, 3, 50, 81, 100, 120, 170, ignore])
            truths[f"{i}"], predictions[f"{i}"] = used[truth], used[predicted]
            Image.fromarray(used[truth].astype(kind)).save(labels / f"{i}.{suffix}")
            Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(images / f"{i}.jpg")
        evaluator = SemSegEvaluator(name, distributed=False, output_dir=str(tmp_path / "out"))
        evaluator.reset()
        for sample in DatasetCatalog.get(name)[:3]:  # the fourth is not evaluated
            ids = torch.as_tensor(predictions[Path(sample["file_name"]).stem])
            scores = torch.nn.functional.one_hot(ids, num_classes).permute(2, 0, 1)
            evaluator.process([sample], [{"sem_seg": scores}])
        results = evaluator.evaluate()["sem_seg"]
        file = tmp_path / "out" / "sem_seg_predictions.json"
        tool.main(["--dataset-name", name, "--json-file", str(file)])
        return capsys.readouterr().out, results, file

    return run_tool


@pytest.mark.parametrize("name", SETS)
def test_from_detectron2s_file(run: Callable, name: str):
    shown, results, _ = run(name)
    counts = np.zeros((7, 4))
    for i in range(3):
        counts += slow_counts(*random_maps(i, 7), 7)
    segments = counts[:, 1] + 0.5 * counts[:, 2] + 0.5 * counts[:, 3]
    counts, segments = counts[segments > 0], segments[segments > 0]
    pq = 100 * (counts[:, 0] / segments).mean()
    sq = 100 * (counts[:, 0] / np.maximum(counts[:, 1], 1)).mean()
    rq = 100 * (counts[:, 1] / segments).mean()
    cells = [f"{pq:.1f}", f"{sq:.1f}", f"{rq:.1f}", str(len(segments))]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    assert lines[0] == ["", "PQ", "SQ", "RQ", "N"]
    assert lines[2] == ["All", *cells]
    assert lines[3] == ["Stuff", *cells]
    # Detectron2 0.6; its main branch leaves out classes that are only predicted, which all occur
    assert shown.splitlines()[4] == f"mIoU: {results['mIoU']:.1f}"


def test_built_in_set(tool, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch):
    metadata = MetadataCatalog.get("ade20k_sem_seg_val")  # its root was fixed on import
    for key, folder in (("image_root", "images"), ("sem_seg_root", "labels")):
        monkeypatch.setitem(vars(metadata), key, str(tmp_path / folder))
        (tmp_path / folder).mkdir()
    truth = np.array([[0, 0, 149, 255]], np.uint8)
    Image.fromarray(truth).save(tmp_path / "labels" / "ADE_val_1.png")
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "images" / "ADE_val_1.jpg")
    sample = {
        "file_name": str(tmp_path / "images" / "ADE_val_1.jpg"),
        "sem_seg_file_name": str(tmp_path / "labels" / "ADE_val_1.png"),
    }
    monkeypatch.setitem(DatasetCatalog.data, "ade20k_sem_seg_val", lambda: [sample])
    evaluator = SemSegEvaluator("ade20k_sem_seg_val", distributed=False)
    evaluator.reset()
    entries = evaluator.encode_json_sem_seg(np.array([[0, 0, 149, 3]]), sample["file_name"])
    file = tmp_path / "sem_seg_predictions.json"
    file.write_text(json.dumps(entries))
    tool.main(["--json-file", str(file)])
    shown = capsys.readouterr().out
    assert "| All   | 100.0 | 100.0 | 100.0 | 2   |" in shown
    assert shown.endswith("mIoU: 100.0\n")


def test_unknown_class_size_and_files_are_named(run: Callable, tool: ModuleType, tmp_path: Path):
    name = "coco_2017_test_stuff_10k_sem_seg"
    _, _, file = run(name)
    entries = json.loads(file.read_text())
    arguments = ["--dataset-name", name, "--json-file", str(file)]

    def refuses(message: str) -> None:
        with pytest.raises(SystemExit, match=message):
            tool.main(arguments)

    file.write_text(json.dumps([*entries, {**entries[-1], "category_id": 12}]))
    refuses(r"2\.jpg have category_id 12, which the data set does not know")
    segmentation = {"size": [6, 12], "counts": "0"}
    file.write_text(json.dumps([{**entries[0], "segmentation": segmentation}]))
    refuses(r"height and width \[6, 12\], but its labels \[12, 12\]")
    segmentation = {"size": [12, 12], "counts": "04"}  # what is not told was taken from anywhere
    file.write_text(json.dumps([{**entries[0], "segmentation": segmentation}]))
    refuses("image .*0.jpg has run lengths that cannot be read .they count 4 pixels of 144")
    file.write_text(json.dumps([{**entries[0], "score": float("nan")}]))
    refuses("has NaN in entry 0 of the file .file_name .*, which is no number")
    file.write_text(json.dumps([{**entries[0], "file_name": "elsewhere.jpg"}]))
    refuses(f"no image of {file} is in {name}")
    file.write_text("[]")
    refuses(f"{file} has no predictions")
    file.write_text("[{")
    refuses(f"prediction file {file} cannot be read")
    file.unlink()
    refuses(f"prediction file {file} does not exist")


SEGMENTATION = {"size": [1, 2], "counts": "02"}


@pytest.mark.parametrize(
    "content",
    [
        {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": []}]},
        [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": SEGMENTATION}],
        [{"image_id": 1, "file_name": "1.png", "segments_info": []}],
        [{"file_name": "1.jpg", "category_id": 0, "segmentation": [[0, 0, 1, 1, 2, 0]]}],
        [{"file_name": "1.jpg", "category_id": 0, "segmentation": {**SEGMENTATION, "size": 2}}],
        [{"file_name": None, "category_id": 0, "segmentation": SEGMENTATION}],
        [[1, 2]],
        "text",
        7,
    ],
)
def test_json_of_another_kind_is_told(tool: ModuleType, tmp_path: Path, content):
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(content))
    message = rf"^prediction file {file} has .* where a map of file_name, category_id and segm"
    with pytest.raises(InputError, match=message):
        tool.read_predictions(file)


PICTURES = ["/here/images/a/0001.jpg", "/here/images/b/0001.jpg", "/here/images/b/v1.2.jpg"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (PICTURES, PICTURES),
        (["/there/x/b/0001.png", "/there/x/a/0001.png"], [PICTURES[1], PICTURES[0]]),
        ([r"C:\data\b\0001.jpg"], [PICTURES[1]]),
        (["other/v1.2.jpg", "other/v1.3.jpg"], [PICTURES[2]]),
    ],
)
def test_pictures_are_told_apart_by_their_paths(tool: ModuleType, names, expected):
    assert list(tool.match_pictures(names, PICTURES).values()) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["elsewhere/0001.jpg"], "fit /here/images/a/0001.jpg and /here/images/b/0001.jpg equally"),
        (["/x/a/0001.jpg", "/y/a/0001.jpg"], "and /x/a/0001.jpg fit /here/images/a/0001.jpg"),
    ],
)
def test_pictures_that_cannot_be_told_apart_are_refused(tool: ModuleType, names, message):
    with pytest.raises(InputError, match=message):
        tool.match_pictures(names, PICTURES)


DESCRIPTION = """
name: two_folders
task: semantic
classes: [{name: x, values: [10]}, {name: y, values: [11]}]
splits:
  val: {images: images, labels: labels}
"""


def test_pictures_of_one_name_in_two_folders(tool, tmp_path, capsys):
    """A data set that describes itself; predictions come from another machine."""
    entries = []
    for label, folder in enumerate(("a", "b")):
        for kind, value in (("images", 0), ("labels", 10 + label)):
            (tmp_path / kind / folder).mkdir(parents=True)
            values = np.full((2, 3), value, np.uint8)
            Image.fromarray(values).save(tmp_path / kind / folder / "0001.png")
        segmentation = {"size": [2, 3], "counts": "06"}
        elsewhere = f"/elsewhere/{folder}/0001.jpg"
        entries.append({"file_name": elsewhere, "category_id": label, "segmentation": segmentation})
    evaluate_described(tool, tmp_path, entries)
    assert "| All   | 100.0 | 100.0 | 100.0 | 2   |" in capsys.readouterr().out


def evaluate_described(tool: ModuleType, folder: Path, entries: list[dict]) -> None:
    file, description = folder / "sem_seg_predictions.json", folder / "dataset.yaml"
    file.write_text(json.dumps(entries))
    description.write_text(DESCRIPTION)
    try:
        names = ["--dataset-name", "two_folders_val", "--description", str(description)]
        tool.main([*names, "--json-file", str(file)])
    finally:
        DatasetCatalog.remove("two_folders_val")
        MetadataCatalog.remove("two_folders_val")


def test_labels_as_stored_are_turned_as_their_picture(tool, tmp_path, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn clockwise shows it
    Image.new("RGB", (3, 2)).save(tmp_path / "images/a.png", exif=exif)
    stored = np.array([[10, 11, 11], [10, 11, 11]], np.uint8)
    Image.fromarray(stored).save(tmp_path / "labels/a.png")
    upper = np.zeros((3, 2), np.uint8, order="F")
    upper[0] = 1
    entries = []
    for category, mask in ((0, upper), (1, 1 - upper)):
        lengths = coco_mask.encode(np.asfortranarray(mask))
        segmentation = {"size": [3, 2], "counts": lengths["counts"].decode()}
        entry = {"file_name": "images/a.png", "category_id": category}
        entries.append({**entry, "segmentation": segmentation})
    evaluate_described(tool, tmp_path, entries)
    assert "| All   | 100.0 | 100.0 | 100.0 | 2   |" in capsys.readouterr().out
