"""Pictures and label maps in folders."""

from mask_former.d2.data.pairing import walk


def test_links_that_lead_back_are_not_followed(tmp_path):
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in ("data/a/x.png", "elsewhere/y.png"):
        (tmp_path / path).touch()
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/self").symlink_to(".")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    assert sorted(walk(str(tmp_path / "data"), (".png",))) == ["a/x.png", "b/y.png"]
