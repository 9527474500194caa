"""The pictures, and what the README tells of them."""

from harness import PROJECT
from take_screenshots import PICTURES, SCENES, UNEVEN

LARGEST = {".png": 300_000, ".svg": 300_000, ".gif": 3_000_000}  # bytes
FIRST_BYTES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".gif": b"GIF89a"}


def test_each_picture_is_there_and_not_too_large_for_a_page() -> None:
    pictures = [file for file in PICTURES.iterdir() if file.suffix in LARGEST]
    assert {picture.name for picture in pictures} == set(SCENES)
    for picture in pictures:
        content = picture.read_bytes()
        assert content.startswith(FIRST_BYTES[picture.suffix])
        assert 10_000 < len(content) < LARGEST[picture.suffix]


def test_the_uneven_tasks_of_the_picture_are_those_of_the_readme() -> None:
    in_turn = sum(UNEVEN[::2])
    told = f"with {', '.join(map(str, UNEVEN[:-1]))} and {UNEVEN[-1]} dots of 0.25 s then take {in_turn / 4:.1f} s"
    told += f" in place of {sum(UNEVEN) / 8:.1f} s, because one of two workers gets {in_turn} of the {sum(UNEVEN)} dots"
    assert told in " ".join((PROJECT / "README.md").read_text().split())
