"""The table of published files says what MODEL_ZOO.md and the configurations say."""

import json
import re
from pathlib import Path

import pytest

from mask_former.d2.config import load_config
from mask_former.d2.weights.zoo import zoo_class_names, zoo_config

ROOT = Path(__file__).parents[3]
TABLE = json.loads((ROOT / "mask_former" / "d2" / "weights" / "zoo.json").read_text())


def test_all_files_of_the_page():
    rows = re.findall(
        r"\| `(\w+)` \|.*/(model_final_\w+\.pkl)\)", (ROOT / "MODEL_ZOO.md").read_text()
    )
    assert {file: entry["config"].rpartition("/")[2] for file, entry in TABLE.items()} == {
        file: name for name, file in rows
    }
    assert len(TABLE) == 30


@pytest.mark.parametrize("folder", sorted({e["config"].partition("/")[0] for e in TABLE.values()}))
def test_data_and_classes(folder):
    entries = {file: e for file, e in TABLE.items() if e["config"].startswith(f"{folder}/")}
    for file, entry in entries.items():
        cfg = load_config(entry["config"], device="cpu")
        assert (entry["dataset"],) == cfg.DATASETS.TRAIN
        assert len(zoo_class_names(f"folder/{file}")) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def test_other_files():
    assert zoo_config("https://somewhere/model_final_d8dbeb.pkl") == (
        "ade20k-150/maskformer_R50_bs16_160k"
    )
    assert zoo_config("output/model_final.pth") is None
    assert zoo_class_names("output/model_final.pth") == []
