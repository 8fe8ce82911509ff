"""What a folder lists, which is what there is to be read of it."""

import os

import pytest

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.listing import folders_in, listed_in


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_in(root):
    return [os.path.relpath(path, root) for path in listed_in(str(root)).pictures]


def test_folders_that_systems_leave_behind_are_none(tmp_path):
    left = ("__MACOSX", "@eaDir", ".git", "lost+found", "$RECYCLE.BIN", "System Volume Information")
    touch(tmp_path, "b/x.jpg", "a/y.jpg", *(f"{name}/z.jpg" for name in left))
    assert [folder.name for folder in folders_in(tmp_path)] == ["a", "b"]
    assert names_in(tmp_path) == ["a/y.jpg", "b/x.jpg"]


def test_links_in_circles_end_and_what_is_linked_to_twice_counts_once(tmp_path):
    touch(tmp_path, "data/a/x.jpg", "data/b/deep/y.jpg", "beside/z.jpg")
    data = tmp_path / "data"
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "self").symlink_to(data / "a")
    (data / "a" / "more").symlink_to(tmp_path / "beside")
    (data / "b" / "more").symlink_to(tmp_path / "beside")
    (data / "b" / "nowhere").symlink_to(tmp_path / "nothing")
    assert names_in(data) == ["a/x.jpg", "a/more/z.jpg", "b/deep/y.jpg"]


def test_links_that_lead_nowhere_and_folders_called_like_files_are_told_apart(tmp_path):
    touch(tmp_path, "folder.jpg/x.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")  # an image that is missing, which is to be told
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    assert names_in(tmp_path) == ["gone.jpg", "folder.jpg/x.png"]
    assert listed_in(str(tmp_path)).passed_over == 1


def test_an_odd_name_of_a_folder_that_cannot_be_listed_stays_in_its_line(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", f"{path}/a\nb")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        DataError, match=r"expected a folder that can be listed, got: Permission denied\. Mend"
    ):
        listed_in(str(tmp_path))
    with pytest.raises(DataError) as caught:
        listed_in(str(tmp_path))
    assert "\n" not in str(caught.value)
