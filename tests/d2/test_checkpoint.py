"""Loading checkpoints: of other class counts, of every layout, of too little, and none at all."""

import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mask_former.d2.checkpoint import LoadOptions, MaskFormerCheckpointer
from mask_former.d2.errors import InputError
from mask_former.modeling.head import MaskFormerHead

CLASS_ENTRIES = {
    "sem_seg_head.predictor.class_embed.weight",
    "sem_seg_head.predictor.class_embed.bias",
    "criterion.empty_weight",
}


class Model(nn.Module):
    """The modules of a MaskFormer whose keys count, with random weights."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        pixel_decoder = nn.ModuleDict({"mask_features": nn.Linear(3, 3)})
        predictor = nn.ModuleDict({"class_embed": nn.Linear(width, num_classes + 1)})
        self.sem_seg_head = MaskFormerHead(
            pixel_decoder=pixel_decoder, mask_decoder=predictor, transformer_in_feature="res5"
        )
        self.criterion = nn.Module()
        self.criterion.register_buffer("empty_weight", torch.rand(num_classes + 1))


def save(path: Path, weights: dict) -> str:
    torch.save({"model": weights}, path)
    return str(path)


def equal_keys(model: nn.Module, other: nn.Module) -> set[str]:
    ours, theirs = model.state_dict(), other.state_dict()
    return {k for k in ours if ours[k].shape == theirs[k].shape and torch.equal(ours[k], theirs[k])}


def cells(table: str) -> list[list[str]]:
    """Of the table below its title."""
    return [re.split("  +", line.strip()) for line in table.splitlines()[1:]]


@pytest.fixture
def records(caplog, monkeypatch):
    """What our and fvcore's loggers say; setting up a run's log stops them from passing it on."""
    for name in ("mask_former", "fvcore"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.INFO, logger=name)
    return caplog


@pytest.mark.parametrize("entry", [torch.tensor(1.0), torch.zeros(0, 8)])
def test_a_class_entry_without_a_row(tmp_path, entry):
    weights = {**Model(11).state_dict(), "sem_seg_head.predictor.class_embed.weight": entry}
    path = save(tmp_path / "w.pth", weights)
    with pytest.raises(InputError, match=r"class_embed\.weight in .*w\.pth is of the shape \["):
        MaskFormerCheckpointer(Model(11), strict_classes=False).load(path)


def test_an_address_without_a_handler(tmp_path):
    with pytest.raises(InputError, match="cannot fetch s3://"):
        MaskFormerCheckpointer(Model(11)).load("s3://bucket/w.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_evaluation_refuses_other_classes(tmp_path, prefix):
    weights = {prefix + key: value for key, value in Model(19).state_dict().items()}
    path = save(tmp_path / "w.pth", weights)
    with pytest.raises(InputError, match=r"w\.pth has 19 classes.*NUM_CLASSES is 11.*19"):
        MaskFormerCheckpointer(Model(11)).load(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_fine_tuning_starts_the_class_layer_anew(tmp_path, records, prefix):
    source, model = Model(19), Model(11)
    weights = {prefix + key: value for key, value in source.state_dict().items()}
    path = save(tmp_path / "w.pth", weights)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    MaskFormerCheckpointer(model, strict_classes=False).load(path)
    assert equal_keys(model, source) == model.state_dict().keys() - CLASS_ENTRIES
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in CLASS_ENTRIES)
    (told,) = [message for message in records.messages if "Weights of" in message]
    assert cells(told)[:3] == [
        ["loaded", "4 of the file's 7"],
        [
            "class layer, starts anew",
            "3",
            "of 19 classes in the file, 11 in the model: "
            "sem_seg_head.predictor.class_embed.weight, sem_seg_head.predictor.class_embed.bias, "
            "criterion.empty_weight",
        ],
        ["missing in the file", "0"],
    ]


def test_missing_keys_are_still_told(tmp_path, records):
    weights = Model(19).state_dict()
    del weights["backbone.bias"]
    path = save(tmp_path / "w.pth", weights)
    MaskFormerCheckpointer(Model(11), strict_classes=False).load(path)
    assert "backbone.bias" in records.text


@pytest.mark.parametrize("strict", [True, False])
def test_equal_classes(tmp_path, records, strict):
    source, model = Model(11), Model(11)
    path = save(tmp_path / "w.pth", source.state_dict())
    rest = MaskFormerCheckpointer(model, strict_classes=strict).load(path)
    assert equal_keys(model, source) == model.state_dict().keys()
    assert rest == {}
    assert f"Weights of {path}: all 7 found their place" in records.messages


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(tmp_path, strict, value):
    weights = Model(11).state_dict()
    weights["backbone.bias"][1] = value
    path = save(tmp_path / "w.pth", weights)
    with pytest.raises(InputError, match=r"backbone\.bias is not finite after .*w\.pth was loaded"):
        MaskFormerCheckpointer(Model(11), strict_classes=strict).load(path)


def test_a_path_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source, model = Model(11), Model(11)
    save(tmp_path / "w.pth", source.state_dict())
    MaskFormerCheckpointer(model).load("~/w.pth")
    assert equal_keys(model, source) == model.state_dict().keys()


def test_another_width_is_no_other_class_count(tmp_path, records):
    source, model = Model(11, width=8), Model(11)
    MaskFormerCheckpointer(model).load(save(tmp_path / "w.pth", source.state_dict()))
    key = "sem_seg_head.predictor.class_embed.weight"
    assert equal_keys(model, source) == model.state_dict().keys() - {key}
    assert f"  {key}: (12, 8) in the file, (12, 4) in the model\n" in records.text


def model_zoo_pickle(path: Path, model: nn.Module) -> str:
    """The published layout: numpy arrays, the pixel decoder directly below the head."""
    weights = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): value.numpy()
        for key, value in model.state_dict().items()
    }
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "MaskFormer"}))
    return str(path)


def test_model_zoo(tmp_path):
    source, model = Model(11), Model(11)
    MaskFormerCheckpointer(model).load(model_zoo_pickle(tmp_path / "w.pkl", source))
    assert equal_keys(model, source) == model.state_dict().keys()


def test_model_zoo_of_other_classes(tmp_path):
    path = model_zoo_pickle(tmp_path / "w.pkl", Model(150))
    with pytest.raises(InputError, match="150 classes"):
        MaskFormerCheckpointer(Model(11)).load(path)


def test_backbone_weights_alone(tmp_path):
    model, head = Model(11), Model(11).sem_seg_head
    model.sem_seg_head.load_state_dict(head.state_dict())
    weights = {"weight": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    content = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    MaskFormerCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    assert torch.equal(model.backbone.weight, torch.ones(2, 2))
    assert equal_keys(model.sem_seg_head, head) == head.state_dict().keys()


def test_a_saved_checkpoint_loads_again(tmp_path):
    source, model = Model(11), Model(11)
    MaskFormerCheckpointer(source, str(tmp_path)).save("model_final", note=3)
    rest = MaskFormerCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    assert equal_keys(model, source) == model.state_dict().keys()
    assert rest["note"] == 3


def test_resuming_refuses_other_classes(tmp_path):
    MaskFormerCheckpointer(Model(19), str(tmp_path)).save("model_0000001")
    checkpointer = MaskFormerCheckpointer(Model(11), str(tmp_path), strict_classes=False)
    with pytest.raises(InputError, match="19 classes"):
        checkpointer.resume_or_load("", resume=True)


def test_without_a_run_to_resume_the_weights_are_fine_tuned(tmp_path):
    path = save(tmp_path / "w.pth", Model(19).state_dict())
    model = Model(11)
    checkpointer = MaskFormerCheckpointer(model, str(tmp_path / "none"), strict_classes=False)
    checkpointer.resume_or_load(path, resume=True)
    assert torch.equal(model.backbone.weight, torch.load(path)["model"]["backbone.weight"])


@pytest.mark.parametrize("name", ["none.pth", "none.pkl?matching_heuristics=True"])
def test_missing_file(tmp_path, name):
    with pytest.raises(InputError, match=r"no weights at .*none\.p\S+; mend MODEL\.WEIGHTS"):
        MaskFormerCheckpointer(Model(11)).load(str(tmp_path / name))


def test_address_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"weights http://127\.0\.0\.1:9/w\.pkl: .*; mend MODEL\.WEIGHTS"
    ):
        MaskFormerCheckpointer(Model(11)).load("http://127.0.0.1:9/w.pkl")


def test_from_scratch():
    assert MaskFormerCheckpointer(Model(11)).load("") == {}


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def version_2_files(folder: Path, model: nn.Module) -> dict[str, str]:
    """The present layout in every kind of file, with its metadata and without."""
    files = {name: folder / name for name in ("with.pth", "plain.pth", "w.safetensors")}
    torch.save({"model": model.state_dict()}, files["with.pth"])
    torch.save(dict(model.state_dict()), files["plain.pth"])
    save_file(dict(model.state_dict()), files["w.safetensors"])
    for name, weights in (("with.pkl", model.state_dict()), ("plain.pkl", arrays(model))):
        files[name] = folder / name
        files[name].write_bytes(pickle.dumps({"model": weights, "__author__": "us"}))
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize(
    "name", ["with.pth", "plain.pth", "with.pkl", "plain.pkl", "w.safetensors"]
)
def test_version_2(tmp_path, name, records):
    source, model = Model(11), Model(11)
    MaskFormerCheckpointer(model).load(version_2_files(tmp_path, source)[name])
    assert equal_keys(model, source) == model.state_dict().keys()
    assert not [record for record in records.records if record.levelname != "INFO"]


class Swin(nn.Module):
    """The keys of a Swin backbone below a head that has a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.patch_embed = nn.Linear(2, 2)
        self.backbone.layers = nn.ModuleList([nn.ModuleDict({"norm1": nn.LayerNorm(2)})])
        self.backbone.norm0 = nn.LayerNorm(2)
        self.sem_seg_head = nn.ModuleDict({"norm": nn.LayerNorm(3)})


def swin_weights() -> dict[str, np.ndarray]:
    """ImageNet's: with a classifier, a last norm of another size, and buffers of old versions."""
    shapes = {"patch_embed.weight": (2, 2), "patch_embed.bias": 2, "layers.0.norm1.weight": 2}
    shapes |= {"layers.0.norm1.bias": 2, "layers.0.attn_mask": 3, "norm.weight": 16}
    return {name: np.full(shape, 7, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("by_name", [True, False])
def test_swin_backbone(tmp_path, records, by_name):
    content = {"model": swin_weights(), "__author__": "third_party"}
    path = tmp_path / "swin.pkl"
    path.write_bytes(pickle.dumps({**content, "matching_heuristics": not by_name}))
    model = Swin()
    asked = f"{path}?matching_heuristics=True" if by_name else str(path)
    MaskFormerCheckpointer(model).load(asked)
    filled = {key for key, value in model.state_dict().items() if (value == 7).all()}
    assert filled == {f"backbone.{key}" for key in list(swin_weights())[:4]}
    # One table, and not a line of Detectron2's for each of the norms.
    logs = [record for record in records.records if "Loading from" not in record.getMessage()]
    assert [record.name for record in logs if record.levelname == "WARNING"] == [
        "mask_former.d2.checkpoint"
    ]
    (table,) = [message for message in records.messages if message.startswith("Weights of")]
    assert ["loaded", "4 of the file's 6"] in cells(table)
    assert ["unused of the file", "2", "layers.0.attn_mask, norm.weight"] in cells(table)


def test_names_that_fit_twice(tmp_path):
    model = nn.ModuleDict({"a": nn.ModuleDict({"norm": nn.LayerNorm(2)}), "norm": nn.LayerNorm(2)})
    content = {"model": {"norm.weight": np.ones(2)}, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"names in .*w\.pkl do not tell where"):
        MaskFormerCheckpointer(model).load(str(tmp_path / "w.pkl"))


def test_the_table(tmp_path, records):
    weights = Model(11, width=8).state_dict()
    del weights["backbone.bias"]
    weights.update({f"extra.{n}": torch.ones(1) for n in range(7)})
    path = save(tmp_path / "w.pth", weights)
    MaskFormerCheckpointer(Model(11), options=LoadOptions(min_loaded=0.3)).load(path)
    (table,) = [message for message in records.messages if message.startswith("Weights of")]
    assert cells(table) == [
        ["loaded", "5 of the file's 13"],
        ["missing in the file", "1", "backbone.bias"],
        ["unused of the file", "7", "extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more"],
        [
            "shape mismatch",
            "1",
            "sem_seg_head.predictor.class_embed.weight: (12, 8) in the file, (12, 4) in the model",
        ],
    ]
    assert not [name for name, *_ in records.record_tuples if name == "fvcore.common.checkpoint"][
        1:
    ]


@pytest.mark.parametrize(("least", "enough"), [(0.5, True), (0.51, False), (1, False)])
def test_too_little_of_the_file_fits(tmp_path, least, enough):
    state = Model(11).state_dict()
    weights = {**state, **{f"extra.{n}": torch.ones(1) for n in range(len(state))}}
    path = save(tmp_path / "w.pth", weights)
    checkpointer = MaskFormerCheckpointer(Model(11), options=LoadOptions(min_loaded=least))
    if enough:
        checkpointer.load(path)
    else:
        with pytest.raises(
            InputError, match=rf"only 7 of the 14 weights in .*--min-loaded {least}"
        ):
            checkpointer.load(path)


def test_nothing_fits(tmp_path):
    path = save(tmp_path / "w.pth", {"another.model": torch.ones(1)})
    with pytest.raises(InputError, match="only 0 of the 1 weights"):
        MaskFormerCheckpointer(Model(11)).load(path)


@pytest.mark.parametrize("trusted", [True, False])
def test_trust(tmp_path, trusted):
    model = Model(11)
    torch.save({"model": model.state_dict(), "path": tmp_path}, tmp_path / "w.pth")
    checkpointer = MaskFormerCheckpointer(model, options=LoadOptions(trusted=trusted))
    if trusted:
        assert checkpointer.load(str(tmp_path / "w.pth")) == {"path": tmp_path}
    else:
        with pytest.raises(InputError, match=r"w\.pth names pathlib\.\S+, which weights do not"):
            checkpointer.load(str(tmp_path / "w.pth"))
