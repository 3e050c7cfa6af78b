"""What becomes of a folder of workflow files: `python3 tools/importer_report.py FOLDER [--object-info FILE]`.

Prints a line for each file, then sums: errors, nodes of AnimateDiff-Evolved that are left, by type, values that mean
something else, and the share of the files that are converted whole. With the answer of a server's `/object_info` the
types of all links into and out of written nodes are checked, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ANY = "*"


def nodes_of(graph: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Type and node of each node of a graph of either form, those of subgraphs too."""
    if isinstance(graph.get("nodes"), list):
        for scope in (graph, *(graph.get("definitions") or {}).get("subgraphs", [])):
            yield from ((node["type"], node) for node in scope["nodes"])
    else:
        yield from ((node["class_type"], node) for node in graph.values())


def odd_links(graph: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """Links of which the output's type is not one that the input takes; types of unknown nodes are the file's own."""
    if isinstance(graph.get("nodes"), list):
        return list(_odd_page_links(graph, info))
    found = []
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in graph:
                given = _output(info, graph[str(value[0])]["class_type"], value[1])
                if not _fits(given, _input(info, node["class_type"], name)):
                    found.append(f"{value[0]} -> {key}.{name}")
    return found


def _odd_page_links(graph: dict[str, Any], info: dict[str, Any]) -> Iterator[str]:
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in graph["nodes"]:
        for place, slot in enumerate(node.get("inputs") or []):
            link = next((row for row in graph["links"] if row and row[0] == slot.get("link")), None)
            if link is None or link[1] not in nodes:
                continue
            source = nodes[link[1]]
            given = _output(info, source["type"], link[2]) or source["outputs"][link[2]]["type"]
            if not _fits(given, _input(info, node["type"], slot["name"]) or slot["type"]):
                yield f"{link[1]} -> {node['id']}.{slot['name']} ({place})"


def _output(info: dict[str, Any], kind: str, place: int) -> Any:
    outputs = info.get(kind, {}).get("output", [])
    return outputs[place] if place < len(outputs) else None


def _input(info: dict[str, Any], kind: str, name: str) -> Any:
    inputs = info.get(kind, {}).get("input", {})
    spec = {**inputs.get("required", {}), **inputs.get("optional", {})}.get(name)
    return spec[0] if spec else None


def _fits(given: Any, taken: Any) -> bool:
    unknown = (None, ANY, "")
    if given in unknown or taken in unknown or isinstance(given, list) or isinstance(taken, list):
        return True
    return bool(set(str(given).split(",")) & set(str(taken).split(","))) or "COMBO" in (given, taken)


def _print_sums(sums: Counter) -> None:
    files = max(sums["files"], 1)
    print(f"\n{sums['files']} files, {sums['errors']} errors, {sums['odd']} links of other types")
    for name, words in (
        ("whole", "converted whole"),
        ("clean", "without a node of AnimateDiff-Evolved"),
        ("unchanged", "the same when converted again"),
        ("values", "with values that mean something else"),
    ):
        print(f"{sums[name]:4} ({100 * sums[name] / files:.1f} %) {words}")


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns 1 where a file made an error."""
    sys.path.insert(0, str(ROOT))
    from unet_motion.workflows.importer import convert_workflow, old_types
    from unet_motion.workflows.importer.files import parse_workflow
    from unet_motion.workflows.importer.table import OTHER_PACKS, is_old

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--object-info", type=Path, help="a server's answer to /object_info, to check links by")
    parser.add_argument("--replace-packs", action="store_true", help="replace nodes of other packs, too")
    args = parser.parse_args(argv)
    info = json.loads(args.object_info.read_text()) if args.object_info else {}
    sums, left, changed = Counter(), Counter(), Counter()
    for path in sorted(args.folder.glob("*.json")):
        try:
            data = parse_workflow(path.read_bytes(), path.name)
            if not old_types(data):
                continue
            converted = convert_workflow(data, OTHER_PACKS if args.replace_packs else ())
        except Exception as error:  # the table is to name every one
            print(f"{path.name:40} ERROR {type(error).__name__}: {error}")
            sums["errors"] += 1
            continue
        report = converted.report
        remaining = [kind for kind, _ in nodes_of(converted.graph) if is_old(kind)]
        before = odd_links(data, info)
        odd = [text for text in odd_links(converted.graph, info) if text not in before]
        again = convert_workflow(converted.graph)
        sums.update(files=1, whole=report.is_whole, clean=not remaining, unchanged=again.graph is converted.graph)
        sums.update(odd=len(odd), values=bool(report.changed))
        left.update(f"{entry.kind}: {entry.text}" for entry in report.left)
        changed.update(f"{entry.kind}: {entry.text}" for entry in report.changed)
        words = f"{len(report.replaced)} replaced, {len(report.left)} left, {len(report.changed)} values"
        print(f"{path.name:40} {words}" + "".join(f", odd link {text}" for text in odd))
    for title, counts in (("left", left), ("values that mean something else", changed)):
        print(f"\n{title}:")
        for text, count in counts.most_common():
            print(f"  {count:4} {text[:200]}")
    _print_sums(sums)
    return 1 if sums["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
