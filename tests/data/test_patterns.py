"""Braces in the names of shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from hart.data.opening import expand, open_source
from hart.data.readers.tar import is_remote, local_path
from hart.errors import HartError
from image_files import write_numbered_shards
from set_formats import captions


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", "a.tar"),
        ("a{0..3}.tar", "a0.tar a1.tar a2.tar a3.tar"),
        ("a{08..11}{x,y}", "a08x a08y a09x a09y a10x a10y a11x a11y"),
        ("{1..9..4}{5..1..2}", "15 13 11 55 53 51 95 93 91"),
        ("{a,b{1,2},}", "a b1 b2 "),
        ("{a..c}{}{x}", "a{}{x} b{}{x} c{}{x}"),
        ("p::q{1..2}", "p q1 q2"),
        ("{-1..1}", "-1 0 1"),
        ("a{b", "a{b"),
        ("{a{1..2}}", "{a1} {a2}"),
        ("{c..a}{A..E..2}", "cA cC cE bA bC bE aA aC aE"),
        ("a}{b,c}", "a}{b,c}"),
    ],
)
def test_braces_stand_for_names_as_in_a_shell(pattern: str, names: str) -> None:
    assert list(expand(pattern)) == names.split(" ")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a{0..99999999}.tar", "stands for more than 100,000 files"),
        (f"a{{0..{'9' * 5000}}}.tar", "stands for more than 100,000 files"),
        ("{a,b}" * 17 + ".tar", "more than 100,000 files"),
        ("{a," * 1000 + "}" * 1000 + ".tar", "more than 100 braces"),
    ],
)
def test_a_pattern_of_too_many_names_is_refused_before_any_is_made(pattern: str, message: str) -> None:
    with pytest.raises(HartError, match=message) as error:
        open_source(pattern)
    assert len(str(error.value)) < 400


def test_an_address_that_no_file_system_takes_for_a_name() -> None:
    assert open_source(f"pipe:cat {'x' * 5000}.tar").description
    for address in ("a\0b", "x" * 5000):
        with pytest.raises(HartError, match="does not exist"):
            open_source(address)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///data/a.tar", "/data/a.tar"),
        ("file:/data/a.tar", "/data/a.tar"),
        ("file:a.tar", "a.tar"),
        ("file:///C:/data/a.tar", "C:/data/a.tar"),
        ("file:C:/data/a.tar", "C:/data/a.tar"),
        ("C:/data/a.tar", "C:/data/a.tar"),
    ],
)
def test_the_file_of_an_address_here_and_on_windows(address: str, path: str) -> None:
    assert not is_remote(address) and local_path(address) == Path(path)


def test_an_address_of_a_file_may_have_stars(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, 2, 3)
    assert captions(open_source(f"file://{tmp_path}/*.tar")) == captions(open_source(f"{tmp_path}/*.tar"))
