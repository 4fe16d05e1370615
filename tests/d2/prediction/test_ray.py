"""On Ray, the same files as without."""

import builtins
from functools import partial

import pytest

from mask_former.d2.errors import InputError
from mask_former.d2.prediction.on_ray import ray_rows
from mask_former.d2.prediction.running import predict
from tests.d2.prediction.conftest import draw
from tests.d2.prediction.test_running import contents


def test_ray_is_named_where_it_is_missing(make_job, monkeypatch):
    real = builtins.__import__

    def without_ray(name, *args, **kwargs):
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(InputError, match=r"--ray needs Ray .*pip install -e \"\.\[ray\]\""):
        next(ray_rows(make_job(), None, []))


@pytest.mark.nightly
def test_two_workers_write_the_files_of_one(make_job, tmp_path):
    ray = pytest.importorskip("ray")
    photos = draw(tmp_path / "many", 200, broken=7)
    local = make_job(output=tmp_path / "local", formats=["coco", "label", "panoptic"])
    done = predict(local, str(photos))
    job = make_job(formats=["coco", "label", "panoptic"])
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        there = predict(job, str(photos), rows_of=partial(ray_rows, actors=2))
        assert there.pictures == 200
        assert there.failures == done.failures != {}
        assert contents(job.output) == contents(local.output)
        assert predict(job, str(photos), rows_of=partial(ray_rows, actors=2)).pictures == 1
        full = make_job(output=tmp_path / "full")
        full.output.mkdir()
        (full.output / "label").touch()  # no folder can be made here
        with pytest.raises(InputError, match=r"^[^\n]*label/.*\.png cannot be written"):
            predict(full, str(photos), rows_of=ray_rows)
    finally:
        ray.shutdown()
