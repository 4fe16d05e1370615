"""Configurations by name."""

import re

import pytest

from mask_former.d2.config import load_config
from mask_former.d2.configuring.published import configs_folder, find_config
from mask_former.d2.errors import InputError

TINY = "shapes/maskformer_panoptic_tiny"


@pytest.mark.parametrize(
    "name", [TINY, f"{TINY}.yaml", f"configs/{TINY}.yaml", f"./configs/{TINY}"]
)
def test_a_published_one_is_found_from_everywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(configs_folder() / f"{TINY}.yaml")


def test_a_file_of_the_name_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    (tmp_path / f"{TINY}.yaml").write_text("SEED: 77\n")
    assert load_config(f"{TINY}.yaml", device="cpu").SEED == 77
    assert load_config(TINY, device="cpu").SEED != 77


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("maskformer_panoptic_tiny.yaml", f"did you mean {TINY}?"),
        ("camvid-11/maskformer_R50_bs16_10", "did you mean camvid-11/maskformer_R50_bs16_10k or "),
        ("x.yml", "`mask_former configs` lists them"),
        ("../x.yaml", "`mask_former configs` lists them"),
    ],
)
def test_a_miss_names_the_nearest(name, told):
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        load_config(name, device="cpu")
    assert str(caught.value).startswith(f"cannot read the configuration {name}: it does not exist")


@pytest.mark.parametrize("name", ["/nowhere.yaml", "https://example.org/x.yaml"])
def test_paths_and_addresses_are_no_names(name):
    assert find_config(name) == name
