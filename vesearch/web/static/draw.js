// SVG: a photo with its entities, and a match cut out of its photo.

const SVG = "http://www.w3.org/2000/svg";

export function make(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// through the middles of its sides, rounded at its corners
export function pathOf(outlines) {
  return outlines.map((flat) => {
    const points = [];
    for (let i = 0; i < flat.length; i += 2) points.push([flat[i], flat[i + 1]]);
    const middle = (a, b) => `${((a[0] + b[0]) / 2).toFixed(1)} ${((a[1] + b[1]) / 2).toFixed(1)}`;
    const start = middle(points[points.length - 1], points[0]);
    const curves = points.map((p, i) => `Q${p[0]} ${p[1]} ${middle(p, points[(i + 1) % points.length])}`);
    return `M${start}${curves.join("")}Z`;
  }).join("");
}

let veils = 0;

// everything dimmed but some shapes, which may overlap: a mask, where even and odd would not do
export function veil(w, h, shapes) {
  const id = `lit-${++veils}`;
  const all = { x: 0, y: 0, width: w, height: h };
  return make("g", {},
    make("mask", { id, maskUnits: "userSpaceOnUse", ...all }, make("rect", { ...all, fill: "#fff" }), ...shapes.map((d) => make("path", { d, "fill-rule": "evenodd", fill: "#000" }))),
    make("rect", { class: "veil", mask: `url(#${id})`, ...all }));
}

export function spot(letter, [x, y], pixel) {
  const r = 9 * pixel;
  const text = make("text", { x, y, "font-size": 12 * pixel });
  text.textContent = letter;
  return make("g", { class: `spot spot-${letter}` }, make("circle", { cx: x, cy: y, r }), text);
}

// as much of the photo around the box as fills 4 : 3, nearer when the box is small
export function viewOf(box, w, h) {
  const [x0, y0, x1, y1] = box;
  let width = Math.max((x1 - x0) * 1.45, ((y1 - y0) * 1.45 * 4) / 3, Math.max(w, h) / 9);
  const most = Math.max(w, (h * 4) / 3);
  width = Math.min(width, most);
  const height = (width * 3) / 4;
  const place = (middle, size, limit) => (size >= limit
    ? (limit - size) / 2
    : Math.min(Math.max(middle - size / 2, 0), limit - size));
  return [place((x0 + x1) / 2, width, w), place((y0 + y1) / 2, height, h), width, height];
}

// in place of a photo that cannot be had any more
export function missing([x, y, width, height]) {
  const text = make("text", { class: "missing", x: x + width / 2, y: y + height / 2, "font-size": width / 18 });
  text.textContent = "This photo is not there any more";
  return text;
}

// address: of the whole photo's picture, where it is none of the collection
export function tile(match, address = null) {
  const { width: w, height: h } = match;
  const parts = match.parts.length ? match.parts : [match];
  const box = parts.map((part) => part.box).reduce((a, b) => [
    Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  const view = viewOf(box, w, h);
  const pixel = view[2] / 240;
  const near = view[2] < w / 2 ? 1280 : 640;
  const shapes = parts.map((part) => pathOf(part.outlines));
  const shape = shapes.join("");
  const image = make("image", { href: address || `/api/photos/${match.image}?size=${near}`, width: w, height: h });
  image.addEventListener("error", () => image.replaceWith(missing(view)));
  const drawn = make("svg", { class: "tile", viewBox: view.join(" "), preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true" },
    image,
    veil(w, h, shapes),
    make("path", { class: "halo", d: shape, fill: "none", stroke: "#fff", "stroke-width": 4, "vector-effect": "non-scaling-stroke" }),
    make("path", { d: shape, fill: "none", stroke: "#0077bb", "stroke-width": 2.2, "vector-effect": "non-scaling-stroke" }));
  if (match.spots.length) match.spots.forEach((s) => drawn.append(spot(s.letter, s.at, pixel)));
  else {
    for (const part of parts.filter((one) => one.peak)) {
      for (const dark of ["dark", ""]) drawn.append(make("circle", { class: `peak ${dark}`, cx: part.peak[0], cy: part.peak[1], r: 7 * pixel }));
    }
  }
  return drawn;
}
