"""Pictures are found wherever they are, and read as they are there."""

import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from mask_former.d2.errors import InputError
from mask_former.d2.prediction.sources import find_items, readers


def names(source) -> list[str]:
    return [item.name for item in find_items(str(source))]


def read(source) -> list[np.ndarray]:
    return [reader() for reader in readers(find_items(str(source)))]


@pytest.fixture
def clip(tmp_path):
    """Twelve frames that become brighter."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (48, 32))
    for i in range(12):
        writer.write(np.full((32, 48, 3), 20 * i, np.uint8))
    writer.release()
    return path


def test_a_folder_to_its_depth_in_the_order_of_names(photos):
    (photos / "notes.md").touch()
    (photos / ".hidden.jpg").touch()
    (photos / ".cache").mkdir()
    (photos / ".cache" / "x.jpg").touch()
    expected = ["000.jpg", "003.png", "006.jpg", "sub/001.png", "sub/002.jpg", "sub/004.jpg"]
    assert names(photos) == [*expected, "sub/005.png"]
    assert [item.result for item in find_items(str(photos))][-1] == "sub/005"


def test_a_pattern_a_list_and_a_single_file(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names("photos/*.jpg") == ["photos/000.jpg", "photos/006.jpg"]
    assert len(names("photos/**/*.jpg")) == 4
    listed = tmp_path / "some.txt"
    listed.write_text(f"photos/006.jpg\n\n{photos}/sub/001.png\nphotos/006.jpg\n../gone.jpg\n")
    inside = str(photos).lstrip("/")
    assert sorted(names(listed)) == sorted(["gone.jpg", f"{inside}/sub/001.png", "photos/006.jpg"])
    assert names(photos / "000.jpg") == ["000.jpg"]


def test_pictures_that_differ_in_the_suffix_alone_keep_it(tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [item.result for item in find_items(str(tmp_path))] == ["a.jpg", "a.png", "b"]


def test_an_archive_gives_the_pictures_that_went_in(photos, tmp_path):
    (photos / "sub" / "005.png").unlink()
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        archive.add(photos, ".")
        archive.addfile(tarfile.TarInfo("../../escape.jpg"))
    found = names(tmp_path / "shard-0.tar")
    assert found[-1] == "shard-0/sub/004.jpg"
    assert "shard-0/escape.jpg" in found  # and not beside the results
    items = [
        item for item in find_items(str(tmp_path / "shard-0.tar")) if "escape" not in item.name
    ]
    for reader, expected in zip(readers(items), read(photos), strict=True):
        assert np.array_equal(reader(), expected)


def test_frames_in_any_order_by_any_thread(clip):
    items = find_items(str(clip))
    assert [items[0].name, items[-1].name] == ["clip/000000", "clip/000011"]
    some = items[3:9]  # as a part of the list, or one that goes on
    calls = list(enumerate(readers(some)))
    random.Random(0).shuffle(calls)
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(dict(calls), pool.map(lambda call: call[1](), calls), strict=True))
    brightness = [found[i].mean() for i in range(6)]
    assert brightness == pytest.approx([20.0 * i for i in range(3, 9)], abs=3)


def test_files_that_are_bad_say_so_when_they_are_read(tmp_path, photos):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    (tmp_path / "bad.tar").write_bytes(b"nothing")
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join([str(tmp_path / "bad.mp4"), str(tmp_path / "bad.tar"), "gone.jpg"]))
    messages = []
    for reader in readers(find_items(str(listed))):
        with pytest.raises(InputError) as caught:
            reader()
        messages.append(str(caught.value))
    assert any("gone.jpg does not exist" in message for message in messages)
    assert any("no frame that OpenCV can read" in message for message in messages)
    assert any("cannot be read to its end" in message for message in messages)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_an_archive_that_is_cut_off_is_not_taken_for_whole(photos, tmp_path, share):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(photos / "000.jpg", "000.jpg")
        archive.add(photos / "006.jpg", "006.jpg")
        end = archive.offset
    assert len(find_items(str(path))) == 2
    path.write_bytes(path.read_bytes()[: int(share * end)])  # in a header or in a picture
    messages = []
    for reader in readers(find_items(str(path))):
        try:
            reader()
        except InputError as error:
            messages.append(str(error))
    assert any("shard.tar cannot be read to its end" in message for message in messages)


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no picture: give a folder"):
        find_items(str(tmp_path))
    with pytest.raises(InputError, match="has no picture"):
        find_items(str(tmp_path / "*.jpg"))
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(InputError, match=r"x\.tar\.gz is packed"):
        find_items(str(tmp_path / "x.tar.gz"))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("1.jpg"))
        archive.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(InputError, match=r"2 pictures whose name is a/1"):
        find_items(str(tmp_path / "a.tar"))


def test_a_list_must_be_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n\xff\n")
    with pytest.raises(InputError, match=r"list\.txt is no list: .* byte 0xff .* in UTF-8"):
        find_items(str(tmp_path / "list.txt"))
