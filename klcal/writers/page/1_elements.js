"use strict";
// Elements and numbers. Whatever is from a file becomes text: nothing here takes markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const element = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const drawing = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function svg(width, height, label, ...children) {
  const box = { viewBox: `0 0 ${width} ${height}`, width, height };
  return drawing(
    "svg",
    label ? { ...box, role: "img", "aria-label": label } : { ...box, "aria-hidden": "true" },
    ...children,
  );
}

const isKnown = (value) => value !== undefined && value !== null;

// A few significant digits; nothing where there is no number.
function text(value, digits = 4) {
  if (!isKnown(value)) return "";
  return typeof value === "number" ? String(Number(value.toPrecision(digits))) : String(value);
}

const percent = (value) => (isKnown(value) ? text(100 * value, 3) : "");
const signed = (value, digits = 3) => (isKnown(value) ? (value > 0 ? "+" : "") + text(value, digits) : "");
const whole = (value) => (isKnown(value) ? value.toLocaleString("en") : "");
