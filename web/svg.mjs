// What the drawings on nodes share: elements of SVG, and following the pointer.
const SVG = "http://www.w3.org/2000/svg";

export const rounded = (number) => Math.round(number * 100) / 100;

export function draw(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

/** Where an event is, in the units of a drawing. */
export const pointOf = (svg, event) =>
  new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

/**
 * Follow the pointer from a press until it is let go.
 *
 * The drawing itself captures it: its parts are drawn anew meanwhile, and the page keeps events that would go on to
 * the window.
 */
export function followPointer(svg, event, move, end) {
  event.preventDefault();
  event.stopPropagation();
  svg.setPointerCapture(event.pointerId);
  const moved = (now) => {
    now.stopPropagation();
    move(now);
  };
  const done = (now) => {
    now.stopPropagation();
    svg.removeEventListener("pointermove", moved);
    for (const name of ["pointerup", "pointercancel"]) svg.removeEventListener(name, done);
    end();
  };
  svg.addEventListener("pointermove", moved);
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, done);
}
