"""Fine-tuning: rows of the class layer go over to classes of the same name."""

import logging
import pickle

import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.errors import InputError
from mask_former.d2.weights.reading import RECORD_KEY
from mask_former.d2.weights.record import ModelRecord
from tests.d2.tiny_models import BASELINE, PLUS, make_cfg

PREDICTOR = "sem_seg_head.predictor"
CLASS_EMBED = [f"{PREDICTOR}.class_embed.weight", f"{PREDICTOR}.class_embed.bias"]
OURS = ["car", "Sky", "tree"]
THEIRS = ["road", "sky", "traffic-light", "car"]
ROWS = {0: 3, 1: 1}  # of ours: of theirs


def model_of(number, options=None):
    options = dict(options or {})
    if options.get("MODEL.SEM_SEG_HEAD.NAME") == "PerPixelBaselinePlusHead":
        options["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] = number
    cfg = make_cfg({**options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": number})
    torch.manual_seed(number)
    return build_model(cfg)


def save(path, model, names=None, prefix=""):
    content = {"model": {prefix + key: value for key, value in model.state_dict().items()}}
    if names is not None:
        classes = [{"id": i, "name": name} for i, name in enumerate(names)]
        content[RECORD_KEY] = ModelRecord("", classes, 255, "RGB", "1").state_dict()
    torch.save(content, path)
    return str(path)


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mask_former")
    return caplog


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("options", "keys", "beside"),
    [
        ({}, CLASS_EMBED, 1),
        (BASELINE, [f"{PREDICTOR}.weight", f"{PREDICTOR}.bias"], 0),
        (PLUS, [f"{PREDICTOR}.query_embed.weight"], 0),
    ],
)
def test_rows_go_over(tmp_path, told, options, keys, beside, prefix):
    source, model = model_of(4, options), model_of(3, options)
    path = save(tmp_path / "w.pth", source, THEIRS, prefix)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    MaskFormerCheckpointer(model, strict_classes=False, class_names=OURS).load(path)
    given, now = source.state_dict(), model.state_dict()
    for key in keys:
        for i, row in ROWS.items():
            assert torch.equal(now[key][i], given[key][row])
        assert torch.equal(now[key][2], before[key][2])
        assert len(now[key]) == 3 + beside
        if beside:
            assert torch.equal(now[key][-1], given[key][-1])
    rest = now.keys() - {*keys, "criterion.empty_weight"}
    assert all(torch.equal(now[key], given[key]) for key in rest)
    if "criterion.empty_weight" in now:
        assert now["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.1])
    (table,) = [message for message in told.messages if "by name" in message]
    lines = [line.split() for line in table.splitlines()[1:]]
    assert lines == [["go", "over", "2", "car,", "Sky"], ["start", "anew", "1", "tree"]]
    assert f"Weights of {path}: all {len(given)} found their place" in told.messages


def test_equal_numbers_in_another_order(tmp_path):
    source, model = model_of(3), model_of(3)
    path = save(tmp_path / "w.pth", source, ["tree", "sky", "car"])
    MaskFormerCheckpointer(model, strict_classes=False, class_names=OURS).load(path)
    for key in CLASS_EMBED:
        given = source.state_dict()[key]
        assert torch.equal(model.state_dict()[key], given[[2, 1, 0, 3]])
    MaskFormerCheckpointer(model, strict_classes=False).load(path)  # off: by number
    assert torch.equal(model.state_dict()[key], given)


def test_no_class_in_common(tmp_path):
    source, model = model_of(4), model_of(3)
    before = model.state_dict()[CLASS_EMBED[0]].clone()
    path = save(tmp_path / "w.pth", source, ["a", "b", "c", "c"])
    MaskFormerCheckpointer(model, strict_classes=False, class_names=["x", "y", "c"]).load(path)
    assert torch.equal(model.state_dict()[CLASS_EMBED[0]][:-1], before[:-1])  # two are named c


def test_files_of_the_zoo(tmp_path):
    source, model = model_of(19), model_of(3)
    pickled = tmp_path / "model_final_38c00c.pkl"
    weights = {key: value.numpy() for key, value in source.state_dict().items()}
    pickled.write_bytes(pickle.dumps({"model": weights, "__author__": "x"}))
    MaskFormerCheckpointer(model, strict_classes=False, class_names=OURS).load(str(pickled))
    found, given = model.state_dict()[CLASS_EMBED[0]], source.state_dict()[CLASS_EMBED[0]]
    assert torch.equal(found[[0, 1, 3]], given[[13, 10, 19]])  # car, sky, no object


def test_files_without_names(tmp_path, told):
    path = save(tmp_path / "w.pth", model_of(4))
    with pytest.raises(InputError, match=r"CLASSES_BY_NAME is True, but .*w\.pth names no classes"):
        MaskFormerCheckpointer(model_of(3), strict_classes=False, class_names=OURS).load(path)
    with pytest.raises(InputError, match=r"w\.pth has 4 classes"):  # evaluation
        MaskFormerCheckpointer(model_of(3), class_names=OURS).load(path)


def test_a_backbone_has_no_class_layer(tmp_path, told):
    model = model_of(3)
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": weights}, tmp_path / "w.pth")
    checkpointer = MaskFormerCheckpointer(model, strict_classes=False, class_names=OURS)
    checkpointer.load(str(tmp_path / "w.pth"))
    assert "w.pth has no class layer: MODEL.CLASSES_BY_NAME has no effect" in told.text


def test_a_file_that_contradicts_itself(tmp_path):
    path = save(tmp_path / "w.pth", model_of(4), THEIRS[:3])
    with pytest.raises(InputError, match=r"names 3 classes, but its \S+ has rows for 4"):
        MaskFormerCheckpointer(model_of(3), strict_classes=False, class_names=OURS).load(path)


def test_queries_of_mask_classification_are_no_classes(tmp_path):
    path = save(tmp_path / "w.pth", model_of(4), THEIRS)
    model = model_of(3, PLUS)
    before = model.state_dict()[f"{PREDICTOR}.query_embed.weight"].clone()
    checkpointer = MaskFormerCheckpointer(model, strict_classes=False, class_names=OURS)
    checkpointer.load(path)
    assert torch.equal(model.state_dict()[f"{PREDICTOR}.query_embed.weight"], before)


@pytest.mark.parametrize(("options", "number"), [(BASELINE, 4), (PLUS, 4)])
def test_evaluation_of_baselines_refuses_other_classes(tmp_path, options, number):
    path = save(tmp_path / "w.pth", model_of(number, options))
    with pytest.raises(InputError, match=r"w\.pth has 4 classes, but \S+NUM_CLASSES is 3"):
        MaskFormerCheckpointer(model_of(3, options)).load(path)
    MaskFormerCheckpointer(model_of(3, options), strict_classes=False).load(path)


def test_names_that_a_trainer_asks_for():
    cfg = make_cfg({"DATASETS.TRAIN": ("of_nobody",)})
    assert ModelRecord.of(cfg).names_to_go_by(cfg) == []
    cfg.MODEL.CLASSES_BY_NAME = True
    with pytest.raises(InputError, match=r"neither DATASETS\.TRAIN nor DATASETS\.TEST names 3"):
        ModelRecord.of(cfg).names_to_go_by(cfg)
    cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = ("camvid_sem_seg_train",), 11
    assert ModelRecord.of(cfg).names_to_go_by(cfg)[0].casefold() == "sky"
