"""What is said about getting data sets is complete, well formed, and the same in the docs."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rlseg.data import DATASETS
from rlseg.data.remote import Part, RemoteFile, Source
from rlseg.data.sources import SOURCES, source_of
from rlseg.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "get-data.md"
FILES = [(s, p, f) for s in SOURCES.values() for p in s.parts for f in p.files]


def test_every_data_set_has_a_source():
    assert set(DATASETS) <= set(SOURCES)
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.terms.endswith(".")


def test_ways():
    ways = {name: source.way for name, source in SOURCES.items()}
    assert ways["cremi"] == ways["camvid"] == "direct"
    assert ways["places"] == "partly direct"
    for name in ("cvppp", "kitti", "monuseg", "cityscapes", "gtav", "em3d"):
        assert ways[name] == "by hand"
    for name in ("cells", "leaves", "volumes", "streets", "folder", "coco"):
        assert ways[name] == "nothing to get"


def test_addresses_are_encrypted_first_and_plain_only_as_a_way_out():
    for _, _, file in FILES:
        schemes = [urlsplit(address).scheme for address in file.addresses]
        assert schemes in (["https"], ["https", "http"]), file.addresses
        assert all(urlsplit(a).hostname and urlsplit(a).path for a in file.addresses)


def test_files_are_well_formed():
    names = [(source.name, file.saved_as) for source, _, file in FILES]
    assert len(set(names)) == len(names)
    for _, _, file in FILES:
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.is_archive == bool(file.below)


def test_what_cannot_be_downloaded_has_steps_that_name_the_folder():
    for source in SOURCES.values():
        for part in source.parts:
            assert bool(part.files) != bool(part.steps), (source.name, part.name)
            assert not part.steps or any("DIR" in step for step in part.steps), source.name


def test_parts_are_chosen_by_name():
    cremi = source_of("cremi")
    assert [part.name for part in cremi.chosen(())] == ["A"]
    assert [part.name for part in cremi.chosen(("cre256", "B"))] == ["B", "cre256"]
    with pytest.raises(ConfigError, match="has no part 'cre265'; did you mean 'cre256'"):
        cremi.chosen(("cre265",))
    with pytest.raises(ConfigError, match="nothing is known about getting 'camvit'"):
        source_of("camvit")


@pytest.mark.parametrize(
    "make",
    [
        lambda: RemoteFile(saved_as="../a", addresses=("https://x/a",), kind="zip"),
        lambda: RemoteFile(saved_as="/a", addresses=("https://x/a",), kind="zip"),
        lambda: RemoteFile(saved_as="a", addresses=("https://x/a",), kind="zip", into="a/../../b"),
        lambda: RemoteFile(saved_as="a", addresses=(), kind="zip"),
        lambda: RemoteFile(saved_as="", addresses=("https://x/a",), kind="zip"),
        lambda: Source(name="x", terms="."),
        lambda: Source(name="x", terms=".", parts=(Part(name="a", what="", size=""),) * 2),
        lambda: Source(name="x", terms=".", parts=(Part(name="a", what="", size=""),), note="n"),
    ],
)
def test_mistakes_in_declarations(make):
    with pytest.raises(ConfigError):
        make()


def test_the_table_of_the_docs():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    tried = {True: "yes", False: "no"}
    expected = []
    for source in SOURCES.values():
        for part in source.parts:
            way = "`rlseg data get`" if part.files else "by hand"
            expected.append([f"`{source.name}`", part.name, way, source.terms, part.size,
                             tried[source.tried] if part.files else "-"])  # fmt: skip
        if source.note:
            expected.append([f"`{source.name}`", "-", "nothing to get", source.terms, "-", "-"])
    assert table == expected
