"""Help pages and translations against the node definitions: they say what the schema says, no more and no less."""

from __future__ import annotations

import io
import json
import re

import pytest
from PIL import Image

from tests.comfyui.help_pages import CHINESE, choices, entries, facts, numbers
from tests.comfyui.installations import ROOT
from tests.comfyui.test_api import SNAPSHOT, normalise

NODES = sorted(json.loads(SNAPSHOT.read_text()))
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
BOLD = re.compile(r"\*\*([^*]+)\*\*")
# What vue-i18n, which the page translates with, takes for syntax.
SYNTAX = re.compile(r"[{}|@]")


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def nodes(info):
    return normalise(json.loads(json.dumps(info)))


@pytest.fixture(scope="module")
def zh(server):
    return server.get("/i18n")["zh"]


def docs_of(server):
    return f"/extensions/{server.folder}/docs"


def page_of(server, node, language):
    page = f"{node}.md" if language == "en" else f"{node}/{language}.md"
    return server.get(f"{docs_of(server)}/{page}").decode()


def inputs_of(node):
    """name -> (type, options) in the order of the node."""
    order = [(part, name) for part, names in node["input_order"].items() for name in names]
    return {name: node["input"][part][name] for part, name in order}


def both(server, node):
    return {language: page_of(server, node, language) for language in ("en", "zh")}


@pytest.mark.parametrize("node", NODES)
def test_pages_list_the_inputs_of_the_schema_with_their_ranges_and_defaults(server, nodes, zh, node):
    inputs = inputs_of(nodes[node])
    for language, page in both(server, node).items():
        listed = {entry.id: entry.facts for entry in entries(page, language, 0)}
        assert listed == {name: facts(kind, options, language) for name, (kind, options) in inputs.items()}, language
        assert list(listed) == list(inputs), f"{language}: not in the order of the node"
    for entry in entries(page, "zh", 0):
        assert entry.name == zh["nodeDefs"][node]["inputs"][entry.id]["name"], entry.id


@pytest.mark.parametrize("node", NODES)
def test_pages_list_the_outputs_of_the_schema_with_their_types(server, nodes, zh, node):
    expected = list(zip(nodes[node]["output_name"], nodes[node]["output"], strict=True))
    pages = both(server, node)
    for language, page in pages.items():
        assert [(entry.id, entry.facts) for entry in entries(page, language, 1)] == expected, language
    translated = zh["nodeDefs"][node].get("outputs", {})
    for index, entry in enumerate(entries(pages["zh"], "zh", 1)):
        assert entry.name == translated[str(index)]["name"]


@pytest.mark.parametrize("node", NODES)
def test_pages_have_the_title_that_the_node_has_on_the_canvas(server, nodes, zh, node):
    pages = both(server, node)
    assert pages["en"].startswith(f"# {nodes[node]['display_name']}\n")
    assert pages["zh"].startswith(f"# {zh['nodeDefs'][node]['display_name']}\n")


@pytest.mark.parametrize("node", NODES)
def test_pages_explain_every_choice_and_name_no_other(server, nodes, zh, node):
    """What is bold is a choice of the node or, by its title, one of the pack's nodes; every choice is there."""
    wanted = {
        choice
        for kind, options in inputs_of(nodes[node]).values()
        if kind == "COMBO"
        for choice in choices(options)
        if not choice.startswith("<")
    }
    titles = {"en": {other["display_name"] for other in nodes.values()}}
    titles["zh"] = {translated["display_name"] for translated in zh["nodeDefs"].values()}
    for language, page in both(server, node).items():
        bold = set(BOLD.findall(page))
        assert wanted <= bold, f"{language}: not explained: {wanted - bold}"
        assert bold <= wanted | titles[language], f"{language}: {bold - wanted - titles[language]}"


@pytest.mark.parametrize("node", NODES)
def test_pages_have_pictures_that_the_server_serves(server, node):
    for language, page in both(server, node).items():
        pictures = PICTURE.findall(page)
        own = f"images/{node}.webp" if language == "en" else f"images/{node}.{language}.webp"
        assert own in [path for _, path in pictures]
        for text, path in pictures:
            assert text
            # The page resolves paths from the docs folder for both languages.
            with Image.open(io.BytesIO(server.get(f"{docs_of(server)}/{path}"))) as picture:
                assert picture.width >= 200 and picture.height >= 50


@pytest.mark.parametrize("node", NODES)
def test_the_chinese_page_is_the_english_one_in_chinese(server, node):
    """The same headings, lists, tables, code and numbers; only the words differ."""
    english, chinese = both(server, node).values()
    assert [len(mark) for mark in re.findall(r"^(#+) ", english, re.M)] == [
        len(mark) for mark in re.findall(r"^(#+) ", chinese, re.M)
    ]
    for pattern in (r"^- ", r"^\|", r"^!\[", r"^```", r"^$"):
        assert len(re.findall(pattern, english, re.M)) == len(re.findall(pattern, chinese, re.M)), pattern
    assert set(re.findall(r"`([^`\n]+)`", english)) == set(re.findall(r"`([^`\n]+)`", chinese))
    english, chinese = (PICTURE.sub("", page) for page in (english, chinese))
    # Without the Chinese names, which may end in a number of their own.
    assert numbers(english) == numbers(re.sub(r"^(- `\w+`（)[^；]+；", r"\1", chinese, flags=re.M))
    words = [line for line in chinese.splitlines() if line and line[0] not in "|`"]
    assert [line for line in words if line.startswith(("#", "-")) and not CHINESE.search(line)] == []


def test_no_page_and_no_picture_is_left_over(server, nodes):
    docs = ROOT / "web" / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert pages == {f"{node}.md" for node in nodes} | {f"{node}/zh.md" for node in nodes}
    shown = {path for node in nodes for page in both(server, node).values() for _, path in PICTURE.findall(page)}
    files = [path for path in docs.rglob("*") if path.is_file() and path.suffix != ".md"]
    assert {path.relative_to(docs).as_posix() for path in files} == shown
    assert sum(path.stat().st_size for path in files) < 1_500_000


def test_every_text_of_a_node_is_translated_and_nothing_else(nodes, zh):
    """All names, tooltips and descriptions of the schema are there, in Chinese, with the numbers of the English."""
    assert zh["nodeDefs"].keys() == nodes.keys()
    for node, translated in zh["nodeDefs"].items():
        english = nodes[node]
        parts = {"inputs": bool(inputs_of(english)), "outputs": bool(english["output"])}
        assert translated.keys() == {"display_name", "description", *(part for part in parts if parts[part])}, node
        texts = [(english["display_name"], translated["display_name"])]
        texts += [(english["description"], translated["description"])]
        inputs = inputs_of(english)
        # The page adds a widget of this name to a seed.
        controls = {"control_after_generate" for _, options in inputs.values() if "control_after_generate" in options}
        assert translated.get("inputs", {}).keys() == inputs.keys() | controls, node
        for name, (_, options) in inputs.items():
            assert translated["inputs"][name].keys() == {"name", "tooltip"}, f"{node}: {name}"
            texts.append((options["tooltip"], translated["inputs"][name]["tooltip"]))
        assert translated.get("outputs", {}).keys() == {str(index) for index in range(len(english["output"]))}, node
        for index, tooltip in enumerate(english["output_tooltips"]):
            assert translated["outputs"][str(index)].keys() == {"name", "tooltip"}, f"{node}: output {index}"
            texts.append((tooltip, translated["outputs"][str(index)]["tooltip"]))
        for before, after in texts:
            assert CHINESE.search(after), f"{node}: {after}"
            assert numbers(before) == numbers(after), f"{node}: {before} / {after}"
        names = [entry["name"] for part in ("inputs", "outputs") for entry in translated.get(part, {}).values()]
        assert not any(SYNTAX.search(text) for text in [*names, *(after for _, after in texts)]), node


@pytest.mark.parametrize("node", NODES)
def test_chinese_titles_differ_so_that_a_search_finds_one_node(zh, node):
    titles = [translated["display_name"] for translated in zh["nodeDefs"].values()]
    assert titles.count(zh["nodeDefs"][node]["display_name"]) == 1


def test_category_and_types_of_the_pack_are_translated(nodes, zh):
    assert {part for node in nodes.values() for part in node["category"].split("/")} == zh["nodeCategories"].keys()
    own = {kind for node in nodes.values() for kind in node["output"] if kind == "MOTION_MODULE"}
    assert own <= zh["dataTypes"].keys()


def test_settings_of_the_page_are_translated_and_nothing_else(zh):
    """Ids stand in the script as "UNetMotion.X.Y"; their last-but-one parts are the groups on the settings page."""
    scripts = "".join(path.read_text() for path in (ROOT / "web").rglob("*.js"))
    ids = set(re.findall(r"""["'`](UNetMotion\.\w+\.\w+)["'`]""", scripts))
    assert zh["settings"].keys() == {name.replace(".", "_") for name in ids}
    assert zh["settingsCategories"].keys() == {part for name in ids for part in name.split(".")[:2]}
    for entry in zh["settings"].values():
        assert all(CHINESE.search(text) and not SYNTAX.search(text) for text in entry.values())
