"""Texts on the node that runs, for those who watch it on the page."""

from __future__ import annotations

import sys
from typing import Any

from comfy_execution.utils import get_executing_context

from ..step.preview import is_watching


def say_on_node(text: str) -> None:
    """Show a text on the node that runs, where a page with the pack's script queued it.

    Other clients get nothing: a program may take any binary message for a picture.
    """
    server: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    node, client = get_executing_context(), getattr(server, "client_id", None)
    if node is not None and is_watching(client):
        server.send_progress_text(text, node.node_id, client)
