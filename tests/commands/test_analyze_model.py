"""Counts of parameters and FLOPs, exactly where they are known, and on a model done by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mask_former.d2.config import load_config
from mask_former.d2.weights.record import ModelRecord

CONFIGS = Path(__file__).parents[2] / "configs"
ADE20K = CONFIGS / "ade20k-150"
ZOO = (CONFIGS.parent / "MODEL_ZOO.md").read_text().partition("## COCO")[0]


@pytest.fixture
def run(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def run_tool(config: Path, *arguments: str) -> list[str]:
        tool.main(["--config-file", str(config), *arguments])
        return capsys.readouterr().out.splitlines()

    return run_tool


def totals(shown: list[str]) -> list[float]:
    """The numbers of the lines "total: ...", in their order."""
    lines = [line for line in shown if line.startswith("total: ")]
    return [float(line.split()[1].replace(",", "")) for line in lines]


# The published counts of parameters. The FLOPs are those that the original was measured to have,
# less its five unused auxiliary mask products (at 512 x 512: 0.42 G each with 100 queries, 0.63 G
# each with the 150 of the per-pixel baseline).
@pytest.mark.parametrize(
    ("config", "parameters", "gflops"),
    [
        ("per_pixel_baseline_R50_bs16_160k", 31_033_942, 47.9),
        ("per_pixel_baseline_plus_R50_bs16_160k", 41_228_736, 53.1 - 5 * 0.629),
        ("maskformer_R50_bs16_160k", 41_254_743, 53.0),
        ("swin/maskformer_swin_tiny_bs16_160k", 41_757_009, 55.2),
    ],
)
def test_published_models_at_512(run: Callable, config: str, parameters: int, gflops: float):
    shown = run(ADE20K / f"{config}.yaml", "--tasks", "parameter", "flop", "--use-fixed-input-size")
    counted, flops = totals(shown)
    assert counted == parameters
    assert flops == pytest.approx(gflops, rel=0.01)
    (row,) = (line for line in ZOO.splitlines() if line.startswith(f"| `{Path(config).name}` |"))
    assert row.split("|")[3:5] == [f" {counted:,.0f} ", f" {flops} "]


@pytest.mark.parametrize(("config", "parameters"), [("R101", 60_194_647), ("R101c", 60_318_039)])
def test_parameters_of_deep_models(run: Callable, config: str, parameters: int):
    shown = run(ADE20K / f"maskformer_{config}_bs16_160k.yaml", "--tasks", "parameter")
    assert totals(shown) == [parameters]


class Attention(nn.Module):
    """Two heads of 4 channels: 3 queries, 5 keys, values of 6 channels."""

    def forward(self, inputs: list[dict]) -> torch.Tensor:
        image = inputs[0]["image"]
        query, key, value = (
            image[:1, :1, :1].expand(2, *size) for size in ((3, 4), (5, 4), (5, 6))
        )
        return F.scaled_dot_product_attention(query[None], key[None], value[None])


def test_attention_counts_both_products(tool: ModuleType):
    model, model_input = Attention().eval(), {"image": torch.zeros(3, 8, 8)}
    flops = tool.analyze_flops(model, model_input)
    assert flops.total() == 2 * (3 * 5 * 4 + 3 * 5 * 6)
    counts = tool.count_activations(model, model_input)
    assert counts == {"scaled_dot_product_attention": 2 * (3 * 5 + 3 * 6) / 1e6}


class Plain(nn.Module):
    """A convolution of 3 to 4 channels, 3 x 3, and a linear layer over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, inputs: list[dict]) -> torch.Tensor:
        return self.linear(self.conv(inputs[0]["image"][None]).permute(0, 2, 3, 1))


def test_plain_model_by_hand(tool: ModuleType, capsys: pytest.CaptureFixture[str]):
    images = [{"image": torch.zeros(3, 8, 10)}, {"image": torch.zeros(3, 8, 20)}]
    model = Plain().eval()
    per_pixel = 3 * 4 * 9 + 4 * 5
    flops = [tool.analyze_flops(model, image) for image in images]
    assert [counted.total() for counted in flops] == [80 * per_pixel, 160 * per_pixel]
    tool.do_activation(model, lambda: iter(images))
    conv, linear, total, number = capsys.readouterr().out.splitlines()
    assert {conv, linear} == {"conv: 0.000", "linear: 0.001"}
    assert total == "total: 0.001 ± 0.000 million activations"
    assert number == "mean of 2 inputs"
    counts = tool.count_activations(model, images[0])
    assert counts == {"conv": 80 * 4 / 1e6, "linear": 80 * 5 / 1e6}


def test_summary_is_the_mean(tool: ModuleType):
    lines = tool.summary([{"conv": 1.0, "linear": 2.0}, {"conv": 5.0}], "GFLOPs").splitlines()
    assert lines == [
        "conv: 3.000",
        "linear: 1.000",
        "total: 4.000 ± 1.000 GFLOPs",
        "mean of 2 inputs",
    ]


TINY = CONFIGS / "shapes" / "maskformer_panoptic_tiny.yaml"


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of the test set, of 128 x 128 and 128 x 256 pixels."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("dev", "val"):
        root, annotations = tmp_path / "shapes", []
        for folder in (f"images/{split}", f"annotations/{split}", f"panoptic_{split}"):
            (root / folder).mkdir(parents=True)
        for i, width in enumerate((128, 128, 256)):
            image = Image.fromarray(np.zeros((128, width, 3), np.uint8))
            image.save(root / "images" / split / f"{i}.jpg")
            for folder in (f"annotations/{split}", f"panoptic_{split}"):
                image.save(root / folder / f"{i}.png")
            annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": []})
        (root / f"panoptic_{split}.json").write_text(json.dumps({"annotations": annotations}))
    return tmp_path


def test_images_of_the_test_set(run: Callable, tool: ModuleType, shapes: Path):
    # one image is enough, where the original divided by zero
    one, one_flop = totals(run(TINY, "--tasks", "activation", "flop", "-n", "1"))
    shown = run(TINY, "--tasks", "activation", "flop", "--num-inputs", "9")
    activations, flops = totals(shown)
    # images of one, one and two squares; only the queries' share does not grow with them
    assert 1.2 * one < activations < 4 / 3 * one
    assert 1.2 * one_flop < flops < 4 / 3 * one_flop
    assert shown[-1] == "mean of 3 inputs"
    cfg = load_config(str(TINY), device="cpu")
    sizes = [tuple(i["image"].shape[1:]) for i in tool.dataset_inputs(cfg, 2)]
    assert sizes == [(128, 128), (128, 128)]
    assert len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) == 3


def test_fixed_size_needs_no_data(run: Callable, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    crop = ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "(64, 96)"]
    small = totals(run(TINY, "--tasks", "flop", "--use-fixed-input-size", *OPTIONS, *crop))
    crop[-1] = "(128, 96)"
    large = totals(run(TINY, "--tasks", "flop", "--use-fixed-input-size", *OPTIONS, *crop))
    assert 3 * small[0] < large[0] < 5 * small[0]
    with pytest.raises(SystemExit, match=r"shapes.* does not exist or is empty"):
        run(TINY, "--tasks", "flop")


OPTIONS = ["MODEL.MASK_FORMER.DEC_LAYERS", "2"]


def test_structure_and_options(run: Callable):
    shown = "\n".join(run(TINY, "--tasks", "structure", "-n", "1", *OPTIONS))
    assert shown.startswith("MaskFormer(")
    assert "(0-1): 2 x TransformerDecoderLayer(" in shown


def test_the_configuration_in_a_checkpoint(tool: ModuleType, tmp_path, capsys):
    cfg = load_config(str(TINY), OPTIONS, device="cpu")
    cfg.DATASETS.TEST = ("gone_val",)
    content = {"model": {"a": torch.ones(1)}, "mask_former": ModelRecord.of(cfg).state_dict()}
    torch.save(content, tmp_path / "m.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "m.pth")]
    tool.main(["--tasks", "structure", "-n", "1", *weights])
    assert "(0-1): 2 x TransformerDecoderLayer(" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="data set gone_val is not registered"):
        tool.main(["--tasks", "flop", "-n", "1", *weights])
    with pytest.raises(SystemExit):
        tool.main(["--tasks", "structure"])
    assert "name --config-file FILE, or MODEL.WEIGHTS CHECKPOINT" in capsys.readouterr().err


def test_relative_crops_have_no_fixed_size(run: Callable):
    relative = ["INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", "[0.9, 0.9]"]
    with pytest.raises(SystemExit, match=r"INPUT.CROP.SIZE is \[0.9, 0.9\] of the type"):
        run(TINY, "--tasks", "flop", "--use-fixed-input-size", *relative)


def test_bad_arguments_are_told(tool: ModuleType, capsys: pytest.CaptureFixture[str]):
    for arguments, message in (
        (["--tasks", "flops"], "invalid choice: 'flops'"),
        (["--tasks", "flop", "-n", "0"], "'0' is not a whole number >= 1"),
        ([], "the following arguments are required: --tasks"),
    ):
        with pytest.raises(SystemExit):
            tool.main(["--config-file", str(TINY), *arguments])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: cannot read the configuration nowhere\.yaml"):
        tool.main(["--config-file", "nowhere.yaml", "--tasks", "structure"])
