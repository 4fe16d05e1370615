"""The numbers that are filled in, and the YAML that they are written as."""

from pathlib import Path

import pytest
import yaml

from mask_former.d2.config import get_mask_former_cfg, load_config
from mask_former.d2.data.description import Description, read_description
from mask_former.d2.describing.filling import Choices, Entry, Facts, config_text, fill

ROOT = Path(__file__).parents[3]
R50 = str(ROOT / "configs/ade20k-150/maskformer_R50_bs16_160k.yaml")
CAMVID = Facts(pictures=367, height=360, width=480, most_segments=11)


def description(tmp_path: Path, task: str = "semantic", **split: str) -> Description:
    paths = {"images": "i", **(split or {"labels": "l"})}
    splits = dict.fromkeys(("train", "val"), paths)
    content = {"name": "x", "task": task, "classes": ["a", "b"], "splits": splits}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content))
    return read_description(str(tmp_path / "dataset.yaml"))


def filled(described: Description, facts: Facts = CAMVID, *options: bool, base: str = R50) -> dict:
    entries = fill(described, facts, load_config(base, [], "cpu"), Choices(*options))
    assert len({entry.key for entry in entries}) == len(entries)
    return {entry.key: entry.value for entry in entries}


def test_the_values_of_camvid_are_those_that_were_chosen_for_it(tmp_path):
    found = filled(description(tmp_path), CAMVID, True)
    chosen = load_config(str(ROOT / "configs/camvid-11/maskformer_R50_bs16_10k.yaml"), [], "cpu")
    same = [
        *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.CROP.SIZE", "SOLVER.MAX_ITER"),
        *("INPUT.SIZE_DIVISIBILITY", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "SOLVER.BASE_LR"),
        *("MODEL.RESNETS.NORM", "SOLVER.WARMUP_ITERS", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE"),
        *("MODEL.MASK_FORMER.VALID_MASK", "TEST.EVAL_PERIOD", "TEST.AUG.MIN_SIZES"),
    ]
    for key in same:
        node = chosen
        for part in key.split("."):
            node = node[part]
        assert found[key] == (list(node) if isinstance(node, tuple) else node), key


@pytest.mark.parametrize(
    ("pictures", "iterations"), [(10, 10_000), (2_000, 16_250), (20_210, 160_000)]
)
def test_the_schedule(tmp_path, pictures, iterations):
    found = filled(description(tmp_path), CAMVID._replace(pictures=pictures))
    assert found["SOLVER.MAX_ITER"] == iterations
    assert found["TEST.EVAL_PERIOD"] == found["SOLVER.CHECKPOINT_PERIOD"] == iterations // 10


@pytest.mark.parametrize(
    ("height", "width", "test", "crop"),
    [
        (360, 480, 360, [352, 480]),
        (3000, 4000, 640, [640, 640]),
        (20, 20, 20, [32, 32]),
        (512, 512, 512, [512, 512]),
    ],
)
def test_sizes(tmp_path, height, width, test, crop):
    found = filled(description(tmp_path), CAMVID._replace(height=height, width=width))
    assert found["INPUT.MIN_SIZE_TEST"] == test
    assert found["INPUT.CROP.SIZE"] == crop
    assert found["INPUT.SIZE_DIVISIBILITY"] == (crop[0] if crop[0] == crop[1] else -1)
    assert (found["INPUT.MIN_SIZE_TRAIN"][0], found["INPUT.MIN_SIZE_TRAIN"][-1]) == (
        round(test / 2),
        2 * test,
    )


def test_queries(tmp_path):
    key = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
    described = description(tmp_path)
    assert filled(described)[key] == 32
    assert filled(described, CAMVID._replace(most_segments=90))[key] == 200
    assert filled(described, CAMVID._replace(most_segments=2000))[key] == 2000
    assert filled(described, CAMVID, False, False, True)[key] == 100
    assert filled(described, CAMVID._replace(most_segments=101), False, False, True)[key] == 300
    fixed = str(ROOT / "configs/camvid-11/tiny/maskformer_fixed.yaml")
    assert filled(described, base=fixed)[key] == 2


def test_results_and_mappers(tmp_path):
    prefix = "MODEL.MASK_FORMER.TEST."
    for task, split, on, mapper in (
        ("semantic", {"labels": "l"}, {"SEMANTIC_ON"}, "mask_former_semantic"),
        ("panoptic", {"panoptic": "p", "json": "j"}, {"PANOPTIC_ON"}, "mask_former_panoptic"),
        (
            "panoptic",
            {"panoptic": "p", "json": "j", "labels": "l"},
            {"PANOPTIC_ON", "SEMANTIC_ON"},
            "mask_former_panoptic",
        ),
        ("instance", {"json": "j"}, {"INSTANCE_ON"}, "mask_former_instance"),
    ):
        found = filled(description(tmp_path, task, **split))
        assert {key.removeprefix(prefix) for key, v in found.items() if prefix in key and v} == on
        assert found["INPUT.DATASET_MAPPER_NAME"] == mapper
        assert ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA" in found) == ("labels" not in split)


def test_crops_look_at_the_label_maps_that_are_trained_on(tmp_path):
    paths = {"images": "i", "panoptic": "p", "json": "j"}
    described = description(tmp_path, "panoptic", **paths, labels="l")
    train, val = described.splits
    for splits, looks in (
        ((train, val._replace(labels=None)), True),
        ((val._replace(name="x_test", labels=None, panoptic=None, json=None), train), True),
        ((train._replace(labels=None), val), False),
    ):
        found = filled(described._replace(splits=splits))
        assert ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA" not in found) == looks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("val", "train"), ("x_train", "x_val")),
        (("validation", "training"), ("x_training", "x_validation")),
        (("one", "two"), ("x_one", "x_two")),
        (("test", "my-train"), ("x_my-train", "x_test")),
    ],
)
def test_the_splits_to_train_and_to_evaluate_on(tmp_path, names, expected):
    described = description(tmp_path)
    named = zip(described.splits, names, strict=True)
    splits = tuple(split._replace(name=f"x_{name}") for split, name in named)
    bare = splits[0]._replace(name="train_train", labels=None)
    found = filled(described._replace(splits=(bare, *splits)))
    assert (found["DATASETS.TRAIN"], found["DATASETS.TEST"]) == tuple([n] for n in expected)


def test_a_base_of_the_user_keeps_its_learning_rates(tmp_path):
    found = filled(description(tmp_path), CAMVID, True, True)
    assert found["MODEL.WEIGHTS"] == ""
    assert "SOLVER.BASE_LR" not in found
    coco = str(ROOT / "configs/coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml")
    described = description(tmp_path, "panoptic", panoptic="p", json="j")
    found = filled(described, CAMVID, base=coco)
    base = load_config(coco, [], "cpu")
    assert found["INPUT.DATASET_MAPPER_NAME"] == "detr_panoptic" == base.INPUT.DATASET_MAPPER_NAME
    assert "INPUT.CROP.SIZE" not in found
    share = base.SOLVER.STEPS[0] / base.SOLVER.MAX_ITER
    assert found["SOLVER.STEPS"][0] == pytest.approx(share * found["SOLVER.MAX_ITER"], abs=1)


def test_the_file_says_what_was_filled(tmp_path):
    described = description(tmp_path)
    cfg = load_config(R50, [], "cpu")
    entries = fill(described, CAMVID, cfg, Choices())
    file = tmp_path / "config.yaml"
    file.write_text(config_text(R50, entries))

    merged = load_config(str(file), [], "cpu")

    for entry in entries:
        node = merged
        for part in entry.key.split("."):
            node = node[part]
        assert (list(node) if isinstance(node, tuple) else node) == entry.value
        if entry.reason:
            assert entry.reason in file.read_text()
    assert merged.MODEL.WEIGHTS == cfg.MODEL.WEIGHTS


def test_text_that_yaml_could_mistake():
    text = config_text("a: b.yaml", [Entry("A.B", "no"), Entry("A.C", [1, "x"], "why")])
    assert yaml.safe_load(text) == {"_BASE_": "a: b.yaml", "A": {"B": "no", "C": [1, "x"]}}
    assert "# why" in text
    assert get_mask_former_cfg().DATASETS.DESCRIPTIONS == []
