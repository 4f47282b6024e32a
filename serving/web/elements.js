// Making elements. Text is only ever set as text, so nothing that an endpoint answers can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id, which index.html has. */
export function byId(id) {
  return document.getElementById(id);
}

/** An element with attributes and children; `null` and `false` among either are left out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for pictures. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Words with what stands in backticks, such as commands, as code. */
export function coded(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", {}, part) : part));
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== false));
  return element;
}
