"""Each part on the page is one that trains under the name that its keys give."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import mask_former.d2  # noqa: F401
from mask_former.d2.build.model import build_model
from tests.d2.tiny_models import make_cfg, sample

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
PARTS = re.findall(r"^## (.*?)$.*?```python\n(.*?)```\n\n```yaml\n(.*?)```", PAGE, re.M | re.S)


def test_every_kind_of_part_is_there():
    titles = [title for title, _, _ in PARTS]
    assert titles == ["A backbone", "A pixel decoder", "A mask decoder", "A matcher", "A loss"]
    assert PAGE.count("```python") == len(PARTS)


@pytest.mark.parametrize(("title", "code", "keys"), PARTS, ids=[title for title, _, _ in PARTS])
def test_it_trains(title, code, keys):
    namespace: dict = {"__name__": f"parts.{title}"}
    exec(compile(code, title, "exec"), namespace)
    model = build_model(make_cfg(yaml.safe_load(keys)))
    losses = model.train()([sample(64, 64, [0, 1, 2]), sample(64, 64, [2])])
    sum(losses.values()).backward()
    assert {"loss_ce", "loss_mask", "loss_dice"} <= losses.keys()
    assert ("loss_smooth" in losses) == (title == "A loss")
    trained = [p for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(trained) > 4
    with torch.no_grad():
        (result,) = model.eval()([sample(64, 64, [0])])
    assert result["sem_seg"].shape == (3, 64, 64)
    (name,) = re.findall(r"register\(\)\n(?:class|def) (\w+)", code)
    assert name in keys
