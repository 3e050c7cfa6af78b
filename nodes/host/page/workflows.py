"""Graphs of AnimateDiff-Evolved that reach the server: posted ones are converted, pages ask for theirs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from contextvars import ContextVar
from typing import Any

import folder_paths
from aiohttp import web

import nodes as core_nodes

from ....unet_motion.files.errors import shorten
from ....unet_motion.workflows.importer import WorkflowError, convert_workflow, old_types
from ....unet_motion.workflows.importer.table import OTHER_PACKS, is_old, one_to_one, written_for

SETTING = "UNetMotion.Workflows.ConvertPosted"
HEADER = "UNetMotion-Converted"
_converted: ContextVar[str | None] = ContextVar("unet_motion_converted", default=None)


def missing_packs() -> frozenset[str]:
    """Types of other packs that this server lacks, and whose counterparts it has."""
    there = core_nodes.NODE_CLASS_MAPPINGS.keys()
    return frozenset(kind for kind in OTHER_PACKS - there if written_for(kind) <= there)


def is_wanted() -> bool:
    """Whether the user's settings say that posted graphs are converted; yes where they say nothing."""
    path = os.path.join(folder_paths.get_user_directory(), "default", "comfy.settings.json")
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError), open(path, encoding="utf-8") as file:
        return json.load(file).get(SETTING, True) is not False
    return True


def convert_posted(body: Any) -> Any:
    """A body that was posted to /prompt, its graph converted where nodes of AnimateDiff-Evolved are missing here."""
    _converted.set(None)
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(prompt, dict):
        return body
    types = {node.get("class_type") for node in prompt.values() if isinstance(node, dict)}
    missing = {kind for kind in types if isinstance(kind, str) and is_old(kind)} - core_nodes.NODE_CLASS_MAPPINGS.keys()
    if not missing:
        return body
    if not is_wanted():
        _name_for_replacement(prompt)
        return body
    try:
        converted = convert_workflow(prompt, missing_packs())
    except WorkflowError as error:
        logging.warning("[UNetMotion] A posted graph of AnimateDiff-Evolved was not converted: %s", error)
        return body
    report = converted.report
    said = f"{len(report.replaced)} replaced, {len(report.left)} left, {len(report.changed)} values changed"
    logging.info("[UNetMotion] A posted graph of AnimateDiff-Evolved was converted: %s", said)
    for entry in (*report.left, *report.changed):
        logging.warning("[UNetMotion] Node %s (%s): %s", entry.node, entry.kind, entry.text)
    _converted.set(said)
    extra = body.get("extra_data")
    extra = {**(extra if isinstance(extra, dict) else {}), "unet_motion_converted": report.to_dict()}
    return {**body, "prompt": converted.graph, "extra_data": extra}


def _name_for_replacement(prompt: dict[str, Any]) -> None:
    """Give nodes that core replaces by itself the title that it expects of every node."""
    for node in prompt.values():
        if isinstance(node, dict) and node.get("class_type") in one_to_one():
            node.setdefault("_meta", {"title": node["class_type"]})


async def _say_converted(_request: web.Request, response: web.StreamResponse) -> None:
    said = _converted.get()
    if said is not None:
        response.headers[HEADER] = said
        _converted.set(None)


async def convert_for_page(request: web.Request) -> web.Response:
    """POST {workflow, replace_packs}: the converted graph, the report, and which old types the graph had.

    replace_packs: types of other packs to replace too; by default those that are missing here.
    """
    try:
        body = await request.json()
        workflow, packs = body["workflow"], body.get("replace_packs")
        if packs is not None and not (isinstance(packs, list) and all(isinstance(kind, str) for kind in packs)):
            raise ValueError(f"replace_packs is {shorten(repr(packs))}, expected a list of types of nodes.")
        converted = convert_workflow(workflow, missing_packs() if packs is None else packs)
    except (KeyError, TypeError, AttributeError):
        return web.json_response({"error": "expected an object with a workflow"}, status=400)
    except RecursionError:
        return web.json_response({"error": "the workflow is nested too deeply"}, status=400)
    except (ValueError, LookupError) as error:
        return web.json_response({"error": str(error)}, status=400)
    old = old_types(workflow)
    return web.json_response({"workflow": converted.graph, "report": converted.report.to_dict(), "old": old})


def register_importer(server: Any) -> None:
    """Convert what is posted to a server from now on."""
    server.add_on_prompt_handler(convert_posted)
    with contextlib.suppress(RuntimeError):  # an application that runs already: the log says it all the same
        server.app.on_response_prepare.append(_say_converted)


async def register_replacements() -> None:
    """Tell core, where it can know, which old nodes have one node in their place."""
    from comfy_api.latest import ComfyAPI, io

    if not hasattr(io, "NodeReplace") or not hasattr(ComfyAPI, "NodeReplacement"):
        return
    if getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None) is None:
        return
    api = ComfyAPI()
    for old, (new, inputs, widgets) in one_to_one().items():
        mapping = [{"new_id": ours, "old_id": theirs} for ours, theirs in inputs.items()]
        await api.node_replacement.register(io.NodeReplace(new, old, widgets, mapping, [{"new_idx": 0, "old_idx": 0}]))
