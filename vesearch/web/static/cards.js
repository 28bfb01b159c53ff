// Matches as cards, and what is done with those that are selected.

import { api } from "./api.js";
import { html, tile } from "./draw.js";
import { follows } from "./start.js";
import { addressOf, commandOf, nameOf, NOTHING, RANKS, state } from "./state.js";

const $ = (id) => document.getElementById(id);
const chosen = new Map(); // image -> path, of selected cards
const opened = new Set(); // entities of cards whose near-copies are shown

export function card(match, now, go) {
  const text = html("div", { class: "text" },
    html("div", {}, html("b", { text: match.word }), ` · ${match.percent} % sure`),
    html("div", { class: "path", dir: "auto", title: match.path, text: nameOf(match.path) }));
  const notes = [match.taken?.slice(0, 10), match.also_at.length && `+${match.also_at.length} ${match.also_at.length === 1 ? "copy" : "copies"}`, match.stale && "changed since ingest"].filter(Boolean).join(" · ");
  if (notes) text.append(html("div", { class: "when", text: notes }));
  text.append(html("div", { class: "row" }, ...marks(match, now, go), selection(match)));
  if (match.copies.length) text.append(...copies(match, now, go));
  return html("li", { class: "card" }, next(match, now, go), text);
}

// near-copies of its photo, which are told with it: how many, and on a click all of them
function copies(match, now, go) {
  const id = match.entity_id;
  const list = html("ul", { class: "copies", id: `copies-${id}`, "aria-label": `Alike: ${nameOf(match.path)}` });
  const button = html("button", { type: "button", class: "button more", "data-key": `copies ${id}`, "aria-controls": list.id, "aria-label": `+${match.copies.length} alike: ${nameOf(match.path)}`, text: `+${match.copies.length} alike` });
  const show = (is) => {
    button.setAttribute("aria-expanded", String(is));
    list.hidden = !is;
    if (is && !list.children.length) list.append(...match.copies.map((copy) => html("li", {}, copyOf(copy, now, go))));
  };
  button.addEventListener("click", () => {
    if (!opened.delete(id)) opened.add(id);
    show(opened.has(id));
  });
  show(opened.has(id));
  return [button, list];
}

function copyOf(copy, now, go) {
  const wanted = { ...now, ...NOTHING, photo: null, image: String(copy.image), e: [...new Set(copy.entities)] };
  const picture = html("img", { src: `/api/photos/${copy.image}?size=160`, alt: "", loading: "lazy" });
  const link = html("a", { href: addressOf(wanted), title: copy.path }, picture, html("span", { dir: "auto", text: nameOf(copy.path) }));
  return follows(link, wanted, (on) => onward(on, go));
}

function onward(wanted, go) {
  go(wanted);
  $("main").focus();
  scrollTo({ top: 0 });
}

// the match as the next question
function next(match, now, go) {
  const parts = match.parts.map((part) => (part.entity_id % RANKS) + 1);
  const wanted = { ...now, ...NOTHING, photo: null, image: String(match.image), e: parts.length ? [...new Set(parts)] : [match.entity] };
  const link = html("a", { class: "go", href: addressOf(wanted) }, tile(match), html("span", { class: "hidden", text: `Search for this: ${match.word}, ${nameOf(match.path)}` }));
  return follows(link, wanted, (on) => onward(on, go));
}

function marks(match, now, go) {
  // of several things it would not be known which of them is right
  const offered = now.e.length > 1 ? [["wrong", "Wrong"]] : [["right", "Right"], ["wrong", "Wrong"]];
  return offered.map(([name, told]) => {
    // what is marked is no match any more: it lies below the photo, where its mark is taken back
    const mark = html("button", { type: "button", class: "button", "data-key": `${name} ${match.entity_id}`, text: told, "aria-label": `${told}: ${nameOf(match.path)}` });
    mark.addEventListener("click", () => {
      const without = (list) => list.filter((id) => id !== match.entity_id);
      const wanted = { ...now, right: without(now.right), wrong: without(now.wrong) };
      go({ ...wanted, [name]: [...wanted[name], match.entity_id] });
    });
    return mark;
  });
}

function selection(match) {
  const box = html("input", { type: "checkbox", "data-key": `select ${match.image}`, "aria-label": `Select: ${nameOf(match.path)}` });
  box.checked = chosen.has(match.image);
  box.addEventListener("change", () => {
    if (box.checked) chosen.set(match.image, match.path);
    else chosen.delete(match.image);
    showChosen();
  });
  return html("label", {}, box, "Select");
}

export function showChosen() {
  $("chosen").hidden = !chosen.size;
  $("chosen-count").textContent = `${chosen.size} selected`;
  $("zip").href = `/api/zip?${[...chosen.keys()].map((image) => `images=${image}`).join("&")}`;
}

export function forgetChosen() {
  chosen.clear();
  opened.clear();
  showChosen();
}

async function copy(button, text) {
  const told = button.dataset.told ??= button.textContent;
  try {
    await navigator.clipboard.writeText(await text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copying is not allowed here";
  }
  setTimeout(() => { button.textContent = told; }, 1500);
}

// pathOf: of the photo that is asked about
export function offerCopies(pathOf) {
  const command = async () => {
    const { store } = await api.status().catch(() => ({ store: "" }));
    return commandOf(state(), pathOf() || "PHOTO", store);
  };
  $("copy-paths").addEventListener("click", (event) => copy(event.currentTarget, [...chosen.values()].join("\n")));
  $("copy-command").addEventListener("click", (event) => copy(event.currentTarget, command()));
}
