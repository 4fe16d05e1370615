"""The example runs as its docstring says."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs(capsys):
    script = ROOT / "examples" / "sem_seg_fpn_as_pixel_decoder.py"
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "pixel decoder: SemSegFPNHead",
        "losses: loss_ce, loss_ce_0, loss_dice, loss_dice_0, loss_mask, loss_mask_0",
        "class scores: (4, 64, 96)",
    ]
