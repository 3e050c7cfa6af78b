"""What a person does on the canvas of the page: add nodes from the search box, write into widgets."""

from __future__ import annotations

from tests.comfyui.browser import Page

# Of the older page's search box and of the newer one's.
SEARCH_BOX = "input[placeholder='Search Nodes...'], input[placeholder='Add a node...']"
RESULTS = ".p-autocomplete-option, [data-testid=result-item]"
COMPLAINTS = "[role=dialog]:visible, [data-testid=error-overlay]:visible"
TRIES = 3
LAST_NODE = "window.app.graph._nodes.at(-1)"
# The middle of a widget on the screen.
PLACE = """([type, name]) => {
  const {canvas, ds} = window.app.canvas, box = canvas.getBoundingClientRect()
  const node = window.app.graph._nodes.find(node => node.type === type)
  const widget = node.widgets.find(widget => widget.name === name)
  const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + (widget.last_y ?? widget.y) + 10
  return [box.left + (x + ds.offset[0]) * ds.scale, box.top + (y + ds.offset[1]) * ds.scale]
}"""


def complaints(page: Page) -> list[str]:
    """The texts of dialogs and notes of errors that lie over the canvas, once the page had time to show them."""
    page.page.wait_for_timeout(500)
    return page.page.locator(COMPLAINTS).all_inner_texts()


def empty_canvas(page: Page, scale: float) -> None:
    page.page.evaluate("window.app.graph.clear()")
    page.page.evaluate("scale => { window.app.canvas.ds.scale = scale; window.app.canvas.setDirty(true, true) }", scale)


def _open_search_box(page: Page, x: float, y: float) -> None:
    from playwright.sync_api import TimeoutError

    box = page.page.locator(SEARCH_BOX)
    for attempt in range(TRIES):
        # A page that is still busy may miss the second click.
        page.page.mouse.dblclick(x, y)
        try:
            box.wait_for(timeout=5_000)
            return
        except TimeoutError:
            if attempt == TRIES - 1:
                raise


def add_from_search_box(page: Page, name: str, x: float, y: float) -> str:
    """Double click on the empty canvas at (x, y), type a name, press Enter; the type of the node that then is there."""
    from playwright.sync_api import expect

    nodes = page.page.evaluate("window.app.graph._nodes.length")
    _open_search_box(page, x, y)
    page.page.locator(SEARCH_BOX).fill(name)
    expect(page.page.locator(RESULTS).first).to_contain_text(name, timeout=20_000)
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("count => window.app.graph._nodes.length === count", arg=nodes + 1)
    page.page.locator(SEARCH_BOX).wait_for(state="hidden")
    for _ in range(TRIES):
        # On newer pages the node hangs on the mouse until it is put down; the box that fades away may take the click.
        if page.page.evaluate(f"!{LAST_NODE}.flags.ghost"):
            break
        page.page.mouse.click(x, y)
        page.page.wait_for_timeout(200)
    assert page.page.evaluate(f"!{LAST_NODE}.flags.ghost")
    return page.page.evaluate(f"{LAST_NODE}.type")


def write_number(page: Page, node_type: str, widget: str, value: int) -> None:
    """Click on a number, and type another one into the field that opens."""
    page.page.mouse.click(*page.page.evaluate(PLACE, [node_type, widget]))
    field = page.page.locator(".graphdialog input")
    field.fill(str(value))
    field.press("Enter")
    field.wait_for(state="detached")


def write_text(page: Page, before: str, after: str) -> None:
    """Type a text into the field that has another one."""
    fields = page.page.locator("textarea.comfy-multiline-input")
    (field,) = (field for field in fields.all() if field.input_value() == before)
    field.click()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type(after)
