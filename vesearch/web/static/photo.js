// The photo that is asked about: its entities to click, boxes to draw, and a point beside them.

import { make, missing, pathOf, spot, veil } from "./draw.js";
import { crosshair, grown, steered, within } from "./point.js";

const MOVED = 6; // px before a press is a drag
const HELD = 350; // ms before a touch draws
const NONE = { e: [], box: null, point: null, whole: false };

export class Photo {
  // pick: called with {e}, {box} or {point}, and whether it is one more; the choice is shown by choose()
  constructor(place, pick) {
    this.place = place;
    this.pick = pick;
    this.entities = [];
    this.chosen = NONE;
    this.spots = [];
    this.aim = null; // where the crosshair is
    this.found = null; // the outlines of what is at the point
    new ResizeObserver(() => this.scale()).observe(place);
  }

  // what is there at once, before its entities are known
  show(address, width, height, title) {
    this.size = [width, height];
    this.entities = [];
    this.chosen = NONE;
    this.spots = [];
    this.aim = this.found = null;
    this.image = make("image", { href: address, width, height });
    this.image.addEventListener("error", () => this.image.replaceWith(missing([0, 0, width, height])));
    this.layer = make("g");
    this.svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title }, this.image, this.layer);
    this.place.replaceChildren(this.svg);
    this.listen();
  }

  busy(is) {
    this.place.classList.toggle("busy", is);
    this.place.setAttribute("aria-busy", String(is));
  }

  set(entities) {
    this.entities = entities;
    this.draw();
  }

  // e: numbers of entities; or box, point or whole. found: outlines of what is at the point
  choose({ e, box, point, whole }, spots = [], found = null) {
    const same = point && String(point) === String(this.chosen.point);
    if (!same) this.aim = point;
    this.found = found || (same ? this.found : null);
    this.chosen = { e, box, point, whole };
    this.spots = spots;
    this.draw();
  }

  // a css pixel, in pixels of the photo
  get pixel() {
    const shown = this.svg.getBoundingClientRect();
    const scale = Math.min(shown.width / this.size[0], shown.height / this.size[1]);
    return scale > 0 ? 1 / scale : this.size[0] / 600;
  }

  draw() {
    const { entity: focused, own } = this.layer.contains(document.activeElement) ? document.activeElement.dataset : {};
    const [w, h] = this.size;
    this.layer.replaceChildren();
    const { box, point, whole } = this.chosen;
    const picked = this.chosen.e.map((e) => this.entities[e - 1]).filter(Boolean);
    this.svg.classList.toggle("decided", Boolean(picked.length || box || point || whole));
    if (picked.length) this.layer.append(veil(w, h, picked.map((entity) => pathOf(entity.outlines))));
    if (box) this.layer.append(veil(w, h, [`M${box[0]} ${box[1]}H${box[2]}V${box[3]}H${box[0]}Z`]));
    const small = [...this.entities].sort((a, b) => b.area - a.area);
    small.forEach((entity) => this.layer.append(this.entity(entity)));
    small.forEach((entity) => this.layer.append(this.badge(entity))); // never under another entity
    if (box) this.layer.append(this.own(box));
    if (point && this.found) this.layer.prepend(...grown(this.found, this.size));
    if (this.aim) this.layer.append(this.sight());
    if (whole) for (const kind of ["under", "frame"]) this.layer.append(make("rect", { class: kind, x: 0, y: 0, width: w, height: h }));
    this.spots.forEach(([letter, at]) => this.layer.append(spot(letter, at, this.pixel)));
    this.scale();
    if (focused) this.layer.querySelector(`[data-entity="${focused}"]`)?.focus();
    if (own === "point") this.layer.querySelector(".aim")?.focus();
  }

  // as if pointed at, from elsewhere on the page
  hot(number, is) {
    for (const part of this.layer?.querySelectorAll(`[data-entity="${number}"], [data-number="${number}"]`) || []) part.classList.toggle("hot", is);
  }

  entity(entity) {
    const d = pathOf(entity.outlines);
    const share = (100 * entity.area) / (this.size[0] * this.size[1]);
    const what = `${entity.stuff ? "Background" : "Entity"} ${entity.entity}${entity.label ? `, ${entity.label}` : ""}, ${share < 1 ? "under 1" : Math.round(share)} % of the photo`;
    const chosen = this.chosen.e.includes(entity.entity);
    const made = make("g", { class: `entity${entity.stuff ? " stuff" : ""}${chosen ? " chosen" : ""}`, tabindex: "0", role: "button", "aria-pressed": String(chosen), "aria-label": what, "data-entity": entity.entity },
      make("path", { class: "halo", d }), make("path", { class: "area", d, "fill-rule": "evenodd" }));
    made.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.pick({ e: entity.entity }, event.shiftKey);
      }
    });
    return made;
  }

  badge(entity) {
    const number = make("text");
    number.textContent = entity.entity;
    const state = `${entity.stuff ? " stuff" : ""}${this.chosen.e.includes(entity.entity) ? " chosen" : ""}`;
    const made = make("g", { class: `badge${state}`, "aria-hidden": "true", "data-number": entity.entity, "data-x": entity.peak[0], "data-y": entity.peak[1] }, make("circle"), number);
    for (const [event, is] of [["pointerenter", true], ["pointerleave", false]]) {
      made.addEventListener(event, () => this.hot(entity.entity, is));
    }
    return made;
  }

  own(box) {
    const [x0, y0, x1, y1] = box;
    const sides = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    const rect = make("rect", { ...sides, tabindex: "0", role: "button", "aria-label": "Your box: arrow keys move it, with Shift they resize it", "data-own": "move" });
    rect.addEventListener("keydown", (event) => this.nudge(event, box));
    const corners = [[x0, y0, "0 1"], [x1, y0, "2 1"], [x0, y1, "0 3"], [x1, y1, "2 3"]].flatMap(([x, y, own]) => ["corner", "grip"].map((kind) => make("circle", { cx: x, cy: y, class: kind, "data-own": own })));
    // drawn anew while it is dragged: what was touched is out of the page then, and hears its touches alone
    for (const part of [rect, ...corners]) part.addEventListener("touchmove", (event) => event.preventDefault(), { passive: false });
    return make("g", { class: "own" }, make("rect", { ...sides, class: "under" }), rect, ...corners);
  }

  // begin with a point in the middle, or without one where at is null
  point(at = this.size.map((side) => side / 2)) {
    this.aim = at && within(at, this.size);
    this.draw();
    this.layer.querySelector(".aim")?.focus();
  }

  sight() {
    const made = crosshair(this.aim, this.size);
    made.classList.toggle("asked", String(this.aim) === String(this.chosen.point)); // a dot: what is there is to be seen
    made.addEventListener("keydown", (event) => {
      const to = steered(event, this.aim, this.size);
      if (to) this.point(to);
      else if (event.key === "Enter" || event.key === " ") this.pick({ point: this.aim });
      else return;
      event.preventDefault();
    });
    made.addEventListener("touchmove", (event) => event.preventDefault(), { passive: false });
    return made;
  }

  nudge(event, box) {
    const step = 0.02 * Math.max(...this.size);
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [dx, dy] = by;
    this.pick({ box: this.inside(event.shiftKey ? [box[0], box[1], box[2] + dx, box[3] + dy] : this.moved(box, dx, dy)) });
    this.layer.querySelector("[data-own=move]")?.focus();
  }

  moved(box, dx, dy) {
    const x = Math.min(Math.max(dx, -box[0]), this.size[0] - box[2]);
    const y = Math.min(Math.max(dy, -box[1]), this.size[1] - box[3]);
    return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
  }

  inside([x0, y0, x1, y1]) {
    const clip = (value, limit) => Math.round(Math.min(Math.max(value, 0), limit) * 10) / 10;
    return [clip(Math.min(x0, x1), this.size[0]), clip(Math.min(y0, y1), this.size[1]), clip(Math.max(x0, x1), this.size[0]), clip(Math.max(y0, y1), this.size[1])];
  }

  // badges, corners and spots keep their size on the screen
  scale() {
    if (!this.layer) return;
    const pixel = this.pixel;
    for (const aim of this.layer.querySelectorAll(".aim")) aim.setAttribute("transform", `translate(${aim.dataset.x} ${aim.dataset.y}) scale(${pixel})`);
    const badges = [...this.layer.querySelectorAll(".badge")];
    const places = this.apart(badges.map((badge) => [Number(badge.dataset.x), Number(badge.dataset.y)]), 27 * pixel);
    for (const [i, badge] of badges.entries()) {
      badge.setAttribute("transform", `translate(${places[i][0]} ${places[i][1]}) scale(${pixel})`);
      badge.querySelector("circle").setAttribute("r", 12);
      badge.querySelector("text").setAttribute("font-size", 12.5);
    }
    for (const [kind, r] of [[".corner", 8], [".grip", 20]]) { // what a finger takes is larger than what is seen
      for (const corner of this.layer.querySelectorAll(kind)) corner.setAttribute("r", r * pixel);
    }
  }

  // places moved from each other until none hides another, and inside of the photo
  apart(places, least) {
    const moved = places.map((place) => [...place]);
    for (let turn = 0; turn < 30; turn++) {
      let still = true;
      for (let i = 0; i < moved.length; i++) {
        for (let j = 0; j < i; j++) {
          const by = [moved[i][0] - moved[j][0], moved[i][1] - moved[j][1]];
          const far = Math.hypot(...by);
          if (far >= least) continue;
          still = false;
          const [x, y] = far > 0.01 * least ? [by[0] / far, by[1] / far] : [Math.cos(i), Math.sin(i)];
          const push = (least - far) / 2 + 0.01 * least;
          moved[i] = [moved[i][0] + x * push, moved[i][1] + y * push];
          moved[j] = [moved[j][0] - x * push, moved[j][1] - y * push];
        }
      }
      for (const place of moved) {
        for (const k of [0, 1]) place[k] = Math.min(Math.max(place[k], least / 2), Math.max(least / 2, this.size[k] - least / 2));
      }
      if (still) break;
    }
    return moved;
  }

  at(event) {
    const matrix = this.svg.getScreenCTM().inverse();
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    return [point.x, point.y];
  }

  listen() {
    const svg = this.svg;
    svg.addEventListener("pointerdown", (event) => this.press(event));
    svg.addEventListener("touchmove", (event) => { if (this.drag?.draws) event.preventDefault(); }, { passive: false });
    svg.addEventListener("contextmenu", (event) => { if (this.drag) event.preventDefault(); });
  }

  press(event) {
    if (event.button > 0 || this.drag) return;
    const drag = this.drag = { id: event.pointerId, from: this.at(event), start: [event.clientX, event.clientY], entity: this.entityAt(event.target), own: event.target.dataset?.own, draws: false };
    drag.before = this.chosen.box;
    drag.chosen = this.chosen;
    const touch = event.pointerType === "touch";
    if (drag.own) drag.draws = true;
    const timer = touch && !drag.own ? setTimeout(() => { drag.draws = true; }, HELD) : null;
    const move = (next) => {
      if (next.pointerId !== drag.id) return;
      const far = Math.hypot(next.clientX - drag.start[0], next.clientY - drag.start[1]) > MOVED;
      drag.far ||= far;
      if (!drag.draws && !(far && !touch)) return;
      drag.draws = true;
      if (far) this.drawing(this.at(next));
    };
    const end = (next) => {
      if (next.pointerId !== drag.id) return;
      clearTimeout(timer);
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
      this.drag = null;
      this.chosen = drag.chosen;
      const more = next.shiftKey || next.ctrlKey || next.metaKey;
      if (next.type === "pointercancel") this.draw();
      else if (drag.box && this.large(drag.box)) this.pick({ box: drag.box });
      else if (drag.entity && !drag.box) this.pick({ e: Number(drag.entity) }, more);
      else if (drag.own === "point") this.pick({ point: this.aim });
      else if (!drag.far && !drag.own) this.pick({ point: within(drag.from, this.size) }, more);
      else this.draw();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  entityAt(target) {
    const found = target.closest?.("[data-entity], [data-number]")?.dataset;
    return found?.entity || found?.number;
  }

  large(box) {
    return Math.min(box[2] - box[0], box[3] - box[1]) >= Math.max(4, 0.01 * Math.max(...this.size));
  }

  drawing([x, y]) {
    const { from, own, before } = this.drag;
    if (own === "point") {
      this.aim = within([x, y], this.size);
      return this.draw();
    }
    if (own === "move") this.drag.box = this.inside(this.moved(before, x - from[0], y - from[1]));
    else if (own) {
      const box = [...before];
      const [across, down] = own.split(" ").map(Number);
      box[across] = x;
      box[down] = y;
      this.drag.box = this.inside(box);
    } else this.drag.box = this.inside([...from, x, y]);
    this.chosen = { ...NONE, box: this.drag.box };
    this.draw();
  }
}
