// A crosshair on the photo, for what was not found as an entity.

import { make, pathOf, veil } from "./draw.js";

const STEP = 0.02; // of the photo's longer side, for an arrow key
const FINE = 0.002; // with Shift

// [x, y] on the photo, in tenths of its pixels
export function within([x, y], size) {
  const clip = (value, limit) => Math.round(Math.min(Math.max(value, 0), limit - 0.1) * 10) / 10;
  return [clip(x, size[0]), clip(y, size[1])];
}

// its place and size on the screen are set as a badge's are
export function crosshair([x, y], size) {
  const told = [x / size[0], y / size[1]].map((share) => `${Math.round(100 * share)} %`);
  const label = `Point, ${told[0]} from the left, ${told[1]} from the top: arrow keys move it, with Shift finely; Enter looks for what is there`;
  const lines = () => make("path", { d: "M-17 0H-5M5 0H17M0-17V-5M0 5V17" });
  const made = make("g", { class: "aim", tabindex: "0", role: "button", "aria-label": label, "data-own": "point", "data-x": x, "data-y": y },
    make("circle", { class: "reach", r: 22 }),
    make("g", { class: "halo" }, lines()), lines(), make("circle", { class: "dot", r: 2.5 }));
  for (const part of made.querySelectorAll("*")) part.dataset.own = "point";
  return made;
}

// where a key moves it to; null where it does not
export function steered(event, [x, y], size) {
  const step = (event.shiftKey ? FINE : STEP) * Math.max(...size);
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  return by ? within([x + by[0], y + by[1]], size) : null;
}

// what there is at the point, or was grown from it, as an entity's outline
export function grown(outlines, [w, h]) {
  const d = pathOf(outlines);
  return [veil(w, h, [d]), make("g", { class: "entity chosen grown" }, make("path", { class: "halo", d }), make("path", { class: "area", d, "fill-rule": "evenodd" }))];
}
