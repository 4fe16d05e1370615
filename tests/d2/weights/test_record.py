"""Checkpoints that carry their configuration and classes, and models that need nothing else."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from safetensors.torch import save_file

import mask_former
from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import load_predictor
from mask_former.d2.visualization.regions import class_metadata
from mask_former.d2.weights.reading import RECORD_KEY, read_weights
from mask_former.d2.weights.record import (
    ModelRecord,
    classes_of,
    known_classes,
    load_trained_config,
    read_record,
)

SHAPES = str(Path(__file__).parents[3] / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")
NAMES = ["sky", "grass", "water", "disc", "square", "triangle", "star"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of the tiny model, as the trainer saves it, whose names all lead nowhere."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "evil").mkdir()
    cfg = load_config(SHAPES, device="cpu")
    for key in ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.IMAGE_MODEL.WEIGHTS"):
        cfg.merge_from_list([key, str(folder / "evil" / key)])
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(folder / "evil" / "proposals"),)
    record = ModelRecord.of(cfg)
    torch.manual_seed(0)
    model = build_model(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("gone_train",), ("gone_val",)
    record = record._replace(config=cfg.dump())
    MaskFormerCheckpointer(model, str(folder), record=record).save("model_final", note=3)
    return folder / "model_final.pth"


def picture():
    return np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8)


def rewritten(saved, tmp_path, **changes):
    """A copy with other entries in its record."""
    content = torch.load(saved, weights_only=True)
    content[RECORD_KEY].update(changes)
    torch.save(content, tmp_path / "m.pth")
    return str(tmp_path / "m.pth")


def test_what_stands_in_the_file(saved):
    content = torch.load(saved, weights_only=True)
    assert content.keys() == {"model", RECORD_KEY, "note"}
    record = content[RECORD_KEY]
    assert type(record) is dict
    assert json.loads(json.dumps(record)) == record
    assert record["classes"][3] == {
        "id": 3,
        "name": "disc",
        "isthing": True,
        "color": [206, 84, 72],
    }
    assert [entry["name"] for entry in record["classes"]] == NAMES
    told = record["ignore_value"], record["input_format"], record["version"]
    assert told == (255, "RGB", mask_former.__version__)


def test_other_programs_load_the_file(saved):
    """Detectron2's own checkpointer, which knows nothing of the record."""
    model = build_model(load_config(SHAPES, device="cpu"))
    rest = DetectionCheckpointer(model).load(str(saved))
    assert rest["note"] == 3
    weights = torch.load(saved)["model"]
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_the_file_alone(saved, monkeypatch, tmp_path):
    """As with its configuration; in a process that has never seen the data."""
    expected = load_predictor(SHAPES, str(saved), ["MODEL.DEVICE", "cpu"])(picture())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    predictor = load_predictor(str(saved), opts=["MODEL.DEVICE", "cpu"])
    found = predictor(picture())
    assert torch.equal(found["sem_seg"], expected["sem_seg"])
    assert found["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert predictor.metadata.stuff_classes == NAMES
    assert predictor.metadata.ignore_label == 255
    shown, registered = class_metadata(predictor.cfg), MetadataCatalog.get("shapes_panoptic_val")
    for key in ("thing_classes", "stuff_colors", "thing_colors", "stuff_classes"):
        assert shown.get(key) == registered.get(key), key
    things = "thing_dataset_id_to_contiguous_id"
    assert shown.get(things) == registered.get(things)
    assert list(tmp_path.iterdir()) == []


_opened: list[str] | None = None


def _watch(event, arguments):
    if _opened is not None and event in ("open", "os.mkdir", "os.listdir", "os.scandir"):
        _opened.append(str(arguments[0]))


def test_loading_opens_nothing_that_the_file_names(saved):
    global _opened
    sys.addaudithook(_watch)
    _opened = []
    load_predictor(str(saved))
    opened, _opened = _opened, None
    assert str(saved) in opened
    assert [path for path in opened if "evil" in path or "gone_" in path] == []
    assert not {"gone_train", "gone_val"} & {*MetadataCatalog, *DatasetCatalog}


def test_a_base_file_is_refused(saved, tmp_path):
    config = torch.load(saved)[RECORD_KEY]["config"] + f"\n_BASE_: {tmp_path / 'evil.yaml'}\n"
    with pytest.raises(InputError, match=r"m\.pth .*: _BASE_ names another file"):
        load_predictor(rewritten(saved, tmp_path, config=config))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("!!python/object/apply:os.mkdir [evil]", "tags that run code are refused"),
        ("MODEL: {NO_KEY: 1}", "unknown configuration key MODEL.NO_KEY"),
        ("MODEL: 3", "MODEL is 3, but it is a section"),
        ("a: [", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("3", "holds 3; a configuration is a map"),
    ],
)
def test_bad_configurations(saved, tmp_path, monkeypatch, config, sentence):
    monkeypatch.chdir(tmp_path)
    path = rewritten(saved, tmp_path, config=config, version="9.9")
    with pytest.raises(InputError, match=rf"in .*m\.pth \(of mask_former 9\.9\).*{sentence}"):
        load_predictor(path)
    assert not (tmp_path / "evil").exists()


CLASS = {"id": 0, "name": "a"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": None}, "config is None, not a str"),
        ({"classes": "abc"}, "classes is 'abc', not a list"),
        ({"classes": ["abc"]}, "has the class"),
        ({"classes": [{**CLASS, "name": 3}]}, "has the class"),
        ({"classes": [{**CLASS, "id": "3"}]}, "has the class"),
        ({"classes": [{**CLASS, "isthing": 1}]}, "has the class"),
        ({"classes": [{**CLASS, "color": [1, 2]}]}, "has the class"),
        ({"classes": [{**CLASS, "color": [1, 2, 256]}]}, "has the class"),
        ({"classes": [CLASS, CLASS]}, r"names 2 classes, but its \S+NUM_CLASSES is 7"),
    ],
)
def test_bad_records(saved, tmp_path, changes, sentence):
    with pytest.raises(InputError, match=rf"m\.pth .*{sentence}"):
        load_predictor(rewritten(saved, tmp_path, **changes))


def test_a_record_that_is_no_record(saved, tmp_path):
    content = torch.load(saved)
    torch.save({**content, RECORD_KEY: [1]}, tmp_path / "m.pth")
    with pytest.raises(InputError, match="in another form than ours"):
        load_predictor(str(tmp_path / "m.pth"))


def test_options_win_and_contradictions_are_told(saved):
    cfg = load_trained_config(None, ["MODEL.WEIGHTS", str(saved), "INPUT.MIN_SIZE_TEST", "60"])
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.OUTPUT_DIR) == (60, "./output")
    with pytest.raises(InputError, match=r"final\.pth has 7 classes, but \S+NUM_CLASSES is 5"):
        load_predictor(str(saved), opts=["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5])
    with pytest.raises(InputError, match=r"final\.pth has 7 classes, but \S+NUM_CLASSES is 5"):
        load_predictor(SHAPES, str(saved), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5])


def test_a_configuration_wins(saved):
    cfg = load_trained_config(SHAPES, ["MODEL.WEIGHTS", str(saved)])
    assert cfg.DATASETS.TEST == ("shapes_panoptic_val",)


def test_classes_for_a_configuration_whose_data_nobody_registered(saved):
    opts = ["MODEL.WEIGHTS", str(saved), "DATASETS.TRAIN", "('of_another_script',)"]
    opts += ["DATASETS.TEST", "('of_another_script',)"]
    cfg = load_trained_config(SHAPES, opts)
    assert class_metadata(cfg).stuff_classes == NAMES
    assert load_trained_config(SHAPES, opts, evaluate=True).DATASETS.TEST == ("of_another_script",)


def test_evaluation_keeps_the_names_of_the_test_sets(saved):
    cfg = load_trained_config(None, ["MODEL.WEIGHTS", str(saved)], evaluate=True)
    assert cfg.DATASETS.TEST == ("gone_val",)
    assert len(known_classes(cfg)) == 7


@pytest.mark.parametrize("name", ["old.pth", "old.safetensors", "old.pkl"])
def test_files_without_a_record(saved, tmp_path, name):
    path = str(tmp_path / name)
    if name.endswith(".safetensors"):
        save_file(torch.load(saved)["model"], path)
    else:
        legacy = {"_use_new_zipfile_serialization": name.endswith("pth")}
        torch.save({"model": torch.load(saved)["model"]}, path, **legacy)
    assert read_record(path) is None
    with pytest.raises(InputError, match=r"does not carry its configuration.*that of its training"):
        load_predictor(path)


def test_files_of_the_zoo_are_told_their_configuration(saved, tmp_path):
    (tmp_path / "model_final_d8dbeb.pkl").write_bytes(b"a pickle, which is not read")
    with pytest.raises(InputError, match=r"configs/ade20k-150/maskformer_R50_bs16_160k\.yaml, wh"):
        load_predictor(str(tmp_path / "model_final_d8dbeb.pkl"))


def test_hostile_and_broken_files(saved, tmp_path):
    hostile = tmp_path / "hostile.pth"
    torch.save({"model": {}, RECORD_KEY: tmp_path}, hostile)
    with pytest.raises(InputError, match=r"hostile\.pth names pathlib\.\S+, which weights do not"):
        load_predictor(str(hostile))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cannot read the weights .*broken\.pth .*truncated"):
        load_predictor(str(broken))


def test_a_configuration_with_a_pickle_reads_no_record(tmp_path):
    opts = ["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/torchvision/R-50.pkl"]
    opts += ["DATASETS.TRAIN", "('of_another_script',)", "DATASETS.TEST", "('of_another_script',)"]
    cfg = load_trained_config(SHAPES, opts)
    assert cfg.DATASETS.TEST == ("of_another_script",)


def test_no_weights_at_all():
    with pytest.raises(InputError, match="load_predictor has no weights, None is given alone"):
        load_predictor()
    with pytest.raises(InputError, match=r"no weights, \S+\.yaml is given alone"):
        load_predictor(SHAPES)
    with pytest.raises(InputError, match=r"no weights at gone\.pth"):
        load_predictor("gone.pth")


def test_the_header_of_safetensors(saved, tmp_path):
    content, path = torch.load(saved), str(tmp_path / "m.safetensors")
    save_file(content["model"], path, {RECORD_KEY: json.dumps(content[RECORD_KEY])})
    assert read_record(path) == read_record(str(saved))
    assert read_weights(path)[RECORD_KEY] == content[RECORD_KEY]
    found, expected = (load_predictor(p)(picture())["sem_seg"] for p in (path, str(saved)))
    assert torch.equal(found, expected)
    save_file(content["model"], path, {RECORD_KEY: "{"})
    with pytest.raises(InputError, match=r"cannot read the weights .*m\.safetensors"):
        read_record(path)


def test_resuming_with_other_classes(saved, tmp_path):
    cfg = load_config(SHAPES, device="cpu")
    record = ModelRecord.of(cfg)
    classes = [record.classes[1], record.classes[0], *record.classes[2:]]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model_final.pth").write_bytes(saved.read_bytes())
    (folder / "last_checkpoint").write_text("model_final.pth")
    for now, refused in ((record, False), (record._replace(classes=classes), True)):
        checkpointer = MaskFormerCheckpointer(build_model(cfg), str(folder), record=now)
        if refused:
            with pytest.raises(InputError, match="class 0 is 'sky' in the run, but 'grass' in the"):
                checkpointer.resume_or_load("", resume=True)
        else:
            assert checkpointer.resume_or_load("", resume=True) == {"note": 3}


def metadata(name, **entries):
    return MetadataCatalog.get(name).set(**entries)


def test_classes_of_metadata():
    plain = metadata("of_plain_names", stuff_classes=["a", "b"])
    assert classes_of(plain, 2) == [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    assert classes_of(plain, 3) == []
    ids = {"thing_dataset_id_to_contiguous_id": {7: 1, 8: 1}}
    ids["stuff_dataset_id_to_contiguous_id"] = {3: 0, 7: 1}
    both = metadata(
        "of_both", stuff_classes=["a", "b"], stuff_colors=[(1, 2, 3), np.array([4, 5, 6])], **ids
    )
    assert classes_of(both, 2) == [
        {"id": 3, "name": "a", "isthing": False, "color": [1, 2, 3]},
        {"id": 7, "name": "b", "isthing": True, "color": [4, 5, 6]},
    ]
    things = metadata("of_things", thing_classes=["a"], stuff_classes=["x", "y"])
    assert classes_of(things, 1) == [{"id": 0, "name": "a"}]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("coco_2017_train_panoptic", 133),
        ("cityscapes_fine_panoptic_train", 19),
        ("ade20k_panoptic_val", 150),
        ("mapillary_vistas_sem_seg_val", 65),
        ("coco_2017_val", 80),
    ],
)
def test_metadata_come_back(name, number):
    known = MetadataCatalog.get(name)
    record = ModelRecord("", classes_of(known, number), 255, "RGB", "")
    back = record.metadata()
    things = "thing_dataset_id_to_contiguous_id"
    assert back.get(things) == known.get(things)
    assert back["stuff_classes"] == known.get("stuff_classes", known.get("thing_classes"))
    assert record.register() == record.register()
