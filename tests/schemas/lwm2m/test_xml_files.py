"""OMA LwM2M XML files: the public registry, and hostile ones."""

import os
from pathlib import Path as FilePath

import pytest

from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import DefinitionError, Definitions
from schemas.lwm2m.path import Path
from schemas.lwm2m.xml_files import MAX_BYTES, MAX_ELEMENTS, parse, parse_each, read

ROOT = FilePath(__file__).parents[3]
OWN = ROOT / "tests" / "data" / "oma"


def _registry() -> FilePath:
    """The public registry where it is at hand; else the definitions of the tests' own."""
    given = os.environ.get("HEADWATER_OMA_REGISTRY")
    beside = ROOT.parent / "shared" / "oma-registry"
    return FilePath(given) if given else beside if beside.is_dir() else OWN


def test_every_file_of_the_registry_is_understood() -> None:
    folder = _registry()
    found = Definitions().load_folder(folder)
    assert found.problems == ()
    assert len(list(found)) == len(list(folder.glob("*.xml")))
    assert all(definition.name and definition.resources for definition in found)


def test_our_facts_are_those_of_the_registry() -> None:
    registry = Definitions().load_folder(_registry())
    compared = 0
    for theirs in registry:
        ours = Definitions.builtin().object(theirs.id, theirs.version)
        if Definitions.builtin().object(theirs.id) is None:
            continue
        assert ours == theirs
        compared += 1
    # 56 objects of the registry are built in; the folder of its earlier versions has each of them several times.
    assert compared >= (0 if registry.object(3) is None else 56)


def test_facts_of_a_file() -> None:
    own = Definitions.builtin().load_folder(OWN)
    temperature = own.resource(Path(32769, 0, 1), "1.2")
    assert temperature is not None
    assert (temperature.name, temperature.type, temperature.unit, temperature.mandatory) == (
        "Water Temperature",
        ResourceType.FLOAT,
        "Cel",
        True,
    )
    starts, reset, links = (own.resource(Path(32769, 0, i), "1.0") for i in (2, 8, 9))
    assert starts is not None and starts.unsigned and starts.multiple
    assert reset is not None and reset.type is None
    assert links is not None and links.links and links.type is ResourceType.STRING


def test_versions_of_an_object_from_several_files_live_side_by_side() -> None:
    own = Definitions().load_folder(OWN)
    types = [own.resource(Path(32769, 0, 1), version) for version in ("1.2", "2.0", None)]
    assert [t and t.type for t in types] == [ResourceType.FLOAT, ResourceType.INTEGER, ResourceType.INTEGER]


def test_an_object_without_a_version_is_of_version_1_0() -> None:
    assert [d.version for d in read(OWN / "valve.xml")] == ["1.0"]


def test_builtin_definitions_stay_beside_those_of_the_folder() -> None:
    both = Definitions.builtin().load_folder(OWN)
    assert both.object(3) == Definitions.builtin().object(3)
    assert both.object(32770) is not None


def test_a_broken_file_is_left_out_and_named(tmp_path: FilePath) -> None:
    (tmp_path / "good.xml").write_bytes((OWN / "valve.xml").read_bytes())
    (tmp_path / "broken.xml").write_text("<LWM2M><Object>")
    (tmp_path / "notes.txt").write_text("not looked at")
    found = Definitions().load_folder(tmp_path)
    assert [d.id for d in found] == [32770]
    (problem,) = found.problems
    assert "broken.xml" in problem


def test_a_folder_that_is_not_there_is_an_error(tmp_path: FilePath) -> None:
    with pytest.raises(DefinitionError, match="nowhere"):
        Definitions().load_folder(tmp_path / "nowhere")


LAUGHS = """<?xml version="1.0"?><!DOCTYPE LWM2M [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><LWM2M><Object><Name>&c;</Name></Object></LWM2M>"""
OUTSIDE = (
    """<!DOCTYPE LWM2M [<!ENTITY x SYSTEM "file:///etc/hostname">]><LWM2M><Object><Name>&x;</Name></Object></LWM2M>"""
)
VALVE = (OWN / "valve.xml").read_text("latin-1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "DOCTYPE"),
        (OUTSIDE, "DOCTYPE"),
        ("<LWM2M>" * 100_000, "nested deeper"),
        ("", "no element"),
        ("<html/>", "<html>"),
        ("<LWM2M/>", "no <Object>"),
        ('<?xml version="1.0" encoding="no-such"?><LWM2M/>', "encoding"),
        (VALVE.replace("32770", "99999"), "99999"),
        (VALVE.replace("32770", ""), "ObjectID"),
        (VALVE.replace('ID="0"', 'ID="zero"'), "zero"),
        (VALVE.replace("Float", "Complex"), "complex"),
        (VALVE.replace("RW", "RWX"), "RWX"),
        (VALVE.replace("<MultipleInstances>Single", "<MultipleInstances>Perhaps"), "MultipleInstances"),
        (VALVE.replace("<Name>Valve", "<ObjectVersion>new</ObjectVersion><Name>Valve"), "ObjectVersion"),
        (
            VALVE.replace("</Resources>", VALVE[VALVE.index("<Item") : VALVE.index("</Resources>")] + "</Resources>"),
            "twice",
        ),
        (" " * (MAX_BYTES + 1), "larger"),
        ("<LWM2M>" + "<a/>" * MAX_ELEMENTS, "more than"),
        (VALVE.replace("</LWM2M>", VALVE[VALVE.index("<Object") :]), "object 32770 version 1.0 is defined twice"),
        ("\x00\x01\x02", "no XML"),
        ("%PDF-1.4", "line 1, column 1: this is no XML"),
    ],
)
def test_a_hostile_or_wrong_file_is_refused_in_words(tmp_path: FilePath, text: str, words: str) -> None:
    file = tmp_path / "bad.xml"
    file.write_text(text, "latin-1")
    with pytest.raises(DefinitionError, match=r"bad\.xml") as caught:
        read(file)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (VALVE.replace("Float", "Complex"), "line 10, column "),
        (VALVE.replace("32770", "ninety"), "line 6, column 5: <ObjectID>"),
        (VALVE.replace("<ObjectID>32770</ObjectID>", ""), "line 4, column 3: <ObjectID>"),
        (VALVE.replace("</Resources>", "</Resource>"), "line 11, column 7: this is no XML: mismatched tag"),
        (LAUGHS, "line 1, column "),
        ("<html>\n</html>", "line 1, column 1: the outermost element is <html>"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_column(text: str, place: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text.encode("latin-1"), "bad.xml")
    assert str(caught.value).startswith(f"bad.xml, {place}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_a_file_is_read_in_the_encoding_that_it_says(encoding: str) -> None:
    declared = encoding.removesuffix("-sig").replace("latin-1", "ISO-8859-1")
    text = VALVE.replace("ISO-8859-1", declared.removesuffix("-le").removesuffix("-be")).replace(
        "<Name>Valve", "<Name>Vanne é"
    )
    bom = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    (definition,) = parse(bom + text.encode(encoding), "valve.xml")
    assert definition.name == "Vanne é"


def test_nothing_outside_the_file_is_opened(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    bait = tmp_path / "bait.txt"
    bait.write_text("secret")
    text = f"""<!DOCTYPE LWM2M [<!ENTITY % x SYSTEM "file://{bait}"> %x;]>{VALVE}"""
    with pytest.raises(DefinitionError) as caught:
        parse(text.encode("latin-1"), "bad.xml")
    assert "secret" not in str(caught.value)
    # XInclude is text like any other.
    include = f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file://{bait}" parse="text"/>'
    (definition,) = parse(VALVE.replace("Valve", f"Valve{include}").encode("latin-1"), "valve.xml")
    assert definition.name == "Valve"


def test_each_object_of_a_file_has_a_file_of_its_own() -> None:
    boiler = (OWN / "boiler.xml").read_text()
    more = boiler[boiler.index("<Object ") : boiler.index("</LWM2M>")]
    both = VALVE.replace("</LWM2M>", more + "</LWM2M>").encode()
    found = parse_each(both.replace(b"ISO-8859-1", b"utf-8"), "both.xml")
    assert [(one.id, one.version) for one, _ in found] == [(32770, "1.0"), (32769, "1.2")]
    assert [parse(data, "alone") for _, data in found] == [[one] for one, _ in found]
    alone = (OWN / "boiler.xml").read_bytes()
    assert [data for _, data in parse_each(alone, "boiler.xml")] == [alone]


def test_an_object_that_two_files_define_differently_is_told(tmp_path: FilePath) -> None:
    (tmp_path / "a.xml").write_text(VALVE, "latin-1")
    (tmp_path / "b.xml").write_text(VALVE, "latin-1")
    assert Definitions().load_folder(tmp_path).problems == ()
    (tmp_path / "b.xml").write_text(VALVE.replace("Float", "String"), "latin-1")
    found = Definitions().load_folder(tmp_path)
    (problem,) = found.problems
    assert "a.xml" in problem and "b.xml" in problem
    valve = found.resource(Path(32770, 0, 0))
    assert valve is not None and valve.type is ResourceType.STRING


def test_truncated_at_every_byte_it_is_an_error_in_words() -> None:
    data = VALVE.rstrip().encode("latin-1")
    for end in range(len(data) - 1):
        with pytest.raises(DefinitionError, match=r"^cut\.xml"):
            parse(data[:end], "cut.xml")
