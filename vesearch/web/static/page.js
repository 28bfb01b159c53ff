// The page's state is its address: going back, reloading and sharing work.

import { api, pictureOf } from "./api.js";
import { html, tile } from "./draw.js";
import { Photo } from "./photo.js";

const $ = (id) => document.getElementById(id);
const ALIKE = 0.5;
const local = new Map(); // an upload's name -> the address of the file in this page
const known = new Map(); // a photo -> its entities
let going = null; // what ends the question that is under way
let last = null; // its answer
const chosen = new Map(); // image -> path, of selected cards

const photo = new Photo($("photo"), (pick) => go({ ...state(), e: null, box: null, right: [], wrong: [], ...pick }));

// --- state -------------------------------------------------------------------------------------

const numbers = (text) => (text ? text.split(",").map(Number).filter(Number.isFinite) : []);

function state() {
  const query = new URLSearchParams(location.search);
  const box = numbers(query.get("box"));
  return {
    image: query.get("image"),
    photo: query.get("photo"),
    e: Number(query.get("e")) || null,
    box: box.length === 4 ? box : null,
    sure: query.has("sure") ? Number(query.get("sure")) : ALIKE,
    in: query.get("in") || "",
    since: query.get("since") || "",
    until: query.get("until") || "",
    area: query.get("area") || "",
    nostuff: query.get("nostuff") === "1",
    explain: query.get("explain") === "1",
    right: numbers(query.get("right")),
    wrong: numbers(query.get("wrong")),
  };
}

function addressOf(wanted) {
  const query = new URLSearchParams();
  for (const name of ["image", "photo", "e", "in", "since", "until", "area"]) if (wanted[name]) query.set(name, wanted[name]);
  for (const name of ["box", "right", "wrong"]) if (wanted[name]?.length) query.set(name, wanted[name].join(","));
  if (wanted.sure !== undefined && wanted.sure !== ALIKE) query.set("sure", wanted.sure);
  for (const name of ["nostuff", "explain"]) if (wanted[name]) query.set(name, "1");
  return query.size ? `/?${query}` : "/";
}

function go(wanted, { replace = false } = {}) {
  const trail = [...(history.state?.trail || [])];
  const now = state();
  const other = now.image !== wanted.image || now.photo !== wanted.photo;
  if (other && (now.image || now.photo)) trail.push({ address: location.pathname + location.search, image: now.image, photo: now.photo });
  const address = addressOf(wanted);
  if (replace) history.replaceState({ trail }, "", address);
  else history.pushState({ trail }, "", address);
  show();
}

addEventListener("popstate", () => show());

// --- what is shown -----------------------------------------------------------------------------

async function show() {
  going?.abort();
  const ends = going = new AbortController();
  const now = state();
  const asks = Boolean(now.image || now.photo);
  $("start").hidden = asks;
  $("work").hidden = !asks;
  showTrail();
  if (!asks) return showStart();
  fill(now);
  try {
    await showPhoto(now, ends.signal);
    if (!ends.signal.aborted) await showMatches(now, ends.signal);
  } catch (fault) {
    if (fault.name !== "AbortError") tell(fault.message, { bad: true, again: fault.status !== 404 });
  } finally {
    if (going === ends) photo.busy(false);
  }
}

const keyOf = (now) => now.photo || `image ${now.image}`;

async function showPhoto(now, signal) {
  const key = keyOf(now);
  if (showPhoto.shown !== key) {
    chosen.clear();
    $("cards").replaceChildren();
    showPhoto.shown = null;
    photo.place.replaceChildren();
    const about = known.get(key);
    photo.busy(!about);
    tell(about ? "" : "Finding its entities …");
    const found = about || (now.photo ? await api.upload(now.photo, signal) : await api.stored(now.image, signal));
    known.set(key, found);
    if (signal.aborted) return;
    const title = nameOf(found.path) || "Your photo";
    document.title = `${title} · vesearch`;
    $("photo-title").textContent = title;
    photo.show(local.get(now.photo) || pictureOf(now, 1280), found.width, found.height, `${title} and its entities`);
    photo.set(found.entities);
    showPhoto.shown = key;
    photo.busy(false);
  }
  photo.choose(now.e ? { e: now.e } : now.box ? { box: now.box } : null);
  $("marks").replaceChildren(...marks(now));
}

function marks(now) {
  const count = now.right.length + now.wrong.length;
  if (!count) return [];
  const told = [now.right.length && `${now.right.length} right`, now.wrong.length && `${now.wrong.length} wrong`].filter(Boolean).join(", ");
  const clear = html("button", { type: "button", class: "button", text: "Clear" });
  clear.addEventListener("click", () => go({ ...now, right: [], wrong: [] }));
  return [html("span", { text: `Refined by ${told}` }), clear];
}

function question(now) {
  const of = now.photo ? { photo: now.photo } : { image: Number(now.image) };
  const places = now.in.trim() ? [now.in.trim()] : [];
  return {
    positives: [{ ...of, ...(now.box ? { box: now.box } : { entity: now.e }) }, ...now.right.map((id) => ({ entity_id: id }))],
    negatives: now.wrong.map((id) => ({ entity_id: id })),
    where: { places, since: now.since || null, until: now.until || null, min_area: Number(now.area) || 0, stuff: !now.nostuff },
    min_confidence: now.sure,
    explain: now.explain,
    top: 24,
  };
}

async function showMatches(now, signal) {
  $("filters").hidden = !(now.e || now.box);
  if (!now.e && !now.box) {
    $("cards").replaceChildren();
    const { entities, at_limit: more } = known.get(keyOf(now));
    last = null;
    showChosen();
    return tell(`${entities.length} ${entities.length === 1 ? "entity" : "entities"}${more ? ", maybe more" : ""}: click the one to look for.`);
  }
  $("cards").classList.add("old");
  tell("Searching …");
  const answer = await api.search(question(now), signal);
  if (signal.aborted) return;
  last = answer;
  $("cards").classList.remove("old");
  $("cards").replaceChildren(...answer.matches.map((match) => card(match, now)));
  const spots = new Map(answer.matches.flatMap((match) => match.spots.map((s) => [s.letter, s.query_at])));
  photo.choose(now.e ? { e: now.e } : { box: now.box }, [...spots]);
  const { length } = answer.matches;
  const more = answer.left_out ? ` ${answer.left_out} less sure ${answer.left_out === 1 ? "one is" : "ones are"} left out: move the slider to see ${answer.left_out === 1 ? "it" : "them"}.` : "";
  tell(length ? `${length} ${length === 1 ? "photo" : "photos"}.${more}` : `Nothing is alike.${more}`);
  showChosen();
}

const nameOf = (path) => (path || "").split("/").slice(-2).join("/");

function card(match, now) {
  const go_on = html("a", { class: "go", href: addressOf({ ...now, photo: null, image: match.image, e: match.entity, box: null, right: [], wrong: [] }) }, tile(match), html("span", { class: "hidden", text: `Search for this: ${match.word}, ${nameOf(match.path)}` }));
  go_on.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go({ ...now, photo: null, image: String(match.image), e: match.entity, box: null, right: [], wrong: [] });
    $("main").focus();
    scrollTo({ top: 0 });
  });
  const notes = [match.taken?.slice(0, 10), match.alike.length && `+${match.alike.length} alike`, match.also_at.length && `+${match.also_at.length} ${match.also_at.length === 1 ? "copy" : "copies"}`, match.stale && "changed since ingest"].filter(Boolean).join(" · ");
  const text = html("div", { class: "text" },
    html("div", {}, html("b", { text: match.word }), ` · ${match.percent} % sure`),
    html("div", { class: "path", dir: "auto", title: match.path, text: nameOf(match.path) }));
  if (notes) text.append(html("div", { class: "when", text: notes }));
  const row = html("div", { class: "row" });
  for (const [name, told] of [["right", "Right"], ["wrong", "Wrong"]]) {
    const pressed = now[name].includes(match.entity_id);
    const mark = html("button", { type: "button", class: "button", "aria-pressed": String(pressed), text: told, "aria-label": `${told}: ${nameOf(match.path)}` });
    mark.addEventListener("click", () => {
      const without = (list) => list.filter((id) => id !== match.entity_id);
      const wanted = { ...now, right: without(now.right), wrong: without(now.wrong) };
      if (!pressed) wanted[name] = [...wanted[name], match.entity_id];
      go(wanted);
    });
    row.append(mark);
  }
  const box = html("input", { type: "checkbox", "aria-label": `Select: ${nameOf(match.path)}` });
  box.checked = chosen.has(match.image);
  box.addEventListener("change", () => {
    if (box.checked) chosen.set(match.image, match.path);
    else chosen.delete(match.image);
    showChosen();
  });
  row.append(html("label", {}, box, "Select"));
  text.append(row);
  return html("li", { class: "card" }, go_on, text);
}

function tell(text, { bad = false, again = false } = {}) {
  const place = $("told");
  place.classList.toggle("bad", bad);
  place.replaceChildren(text);
  if (!again) return;
  const retry = html("button", { type: "button", class: "button", text: "Try again" });
  retry.addEventListener("click", () => show());
  place.append(retry);
}

function showTrail() {
  const trail = history.state?.trail || [];
  $("trail").replaceChildren(...trail.slice(-6).map((step, i) => {
    const address = step.photo ? local.get(step.photo) || pictureOf(step, 160) : pictureOf(step, 160);
    const link = html("a", { href: step.address, "aria-label": `Back to question ${Math.max(0, trail.length - 6) + i + 1}` }, html("img", { src: address, alt: "" }));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      history.pushState({ trail: trail.slice(0, Math.max(0, trail.length - 6) + i) }, "", step.address);
      show();
    });
    return link;
  }));
}

// --- filters -----------------------------------------------------------------------------------

function fill(now) {
  const form = $("filters").elements;
  for (const name of ["sure", "in", "since", "until", "area"]) if (document.activeElement !== form[name]) form[name].value = now[name];
  form.nostuff.checked = now.nostuff;
  form.explain.checked = now.explain;
  if (now.in || now.since || now.until || now.area || now.nostuff || now.explain) $("more").open = true;
  tellSure(now.sure);
}

function tellSure(sure) {
  const word = sure >= 0.85 ? "the same" : sure >= ALIKE ? "alike" : sure > 0 ? "however unlike" : "all";
  $("sure-told").textContent = sure > 0 ? `at least ${Math.round(sure * 100)} %: ${word}` : "show all";
}

let waits = null;
$("filters").addEventListener("input", () => {
  const form = $("filters").elements;
  tellSure(Number(form.sure.value));
  clearTimeout(waits);
  waits = setTimeout(() => go({
    ...state(), sure: Number(form.sure.value), in: form.in.value, since: form.since.value, until: form.until.value, area: form.area.value, nostuff: form.nostuff.checked, explain: form.explain.checked,
  }, { replace: true }), 350);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());

// --- selected photos ---------------------------------------------------------------------------

function showChosen() {
  $("chosen").hidden = !chosen.size;
  $("chosen-count").textContent = `${chosen.size} selected`;
  $("zip").href = `/api/zip?${[...chosen.keys()].map((image) => `images=${image}`).join("&")}`;
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function command() {
  const now = state();
  const about = known.get(keyOf(now));
  const named = about?.path || "PHOTO";
  const parts = ["vesearch query", quoted(now.box ? named : `${named}#${now.e}`)];
  if (now.box) parts.push("--box", now.box.join(","));
  else now.right.forEach((id) => parts.push("--id", id));
  now.wrong.forEach((id) => parts.push("--not", id));
  if (now.in) parts.push("--in", quoted(now.in));
  if (now.since) parts.push("--since", now.since);
  if (now.until) parts.push("--until", now.until);
  if (now.area) parts.push("--min-area", now.area);
  if (now.nostuff) parts.push("--exclude-stuff");
  if (now.sure !== ALIKE) parts.push("--min-confidence", now.sure);
  return parts.join(" ");
}

async function copy(button, text) {
  const told = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copying is not allowed here";
  }
  setTimeout(() => { button.textContent = told; }, 1500);
}

$("copy-paths").addEventListener("click", (event) => copy(event.currentTarget, [...chosen.values()].join("\n")));
$("copy-command").addEventListener("click", (event) => copy(event.currentTarget, command()));

// --- a new photo -------------------------------------------------------------------------------

async function take(file) {
  going?.abort();
  const ends = going = new AbortController();
  $("start").hidden = true;
  $("work").hidden = false;
  $("filters").hidden = true;
  $("cards").replaceChildren();
  $("marks").replaceChildren();
  $("photo-title").textContent = file.name || "Your photo";
  photo.place.replaceChildren();
  showPhoto.shown = null;
  photo.busy(true);
  tell("Finding its entities …");
  const address = URL.createObjectURL(file);
  const size = await sizeOf(address);
  if (ends.signal.aborted) return;
  if (size) photo.show(address, ...size, "Your photo"); // at once, where the browser can read it
  try {
    const found = await api.entities(file, ends.signal);
    found.path = found.path || file.name || "";
    known.set(found.photo, found);
    if (size) local.set(found.photo, address);
    go({ photo: found.photo, image: null, sure: ALIKE });
  } catch (fault) {
    if (fault.name !== "AbortError") tell(fault.message, { bad: true });
  } finally {
    if (going === ends) photo.busy(false);
  }
}

async function sizeOf(address) {
  const image = new Image();
  image.src = address;
  try {
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  } catch {
    return null; // a format that browsers do not read, HEIC say: the server may
  }
}

for (const id of ["file", "camera"]) {
  $(id).addEventListener("change", (event) => {
    if (event.target.files[0]) take(event.target.files[0]);
    event.target.value = "";
  });
}
$("drop").addEventListener("click", () => $("file").click());
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])][0];
  if (file) take(file);
});
let over = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); over++; document.body.classList.add("dropping"); });
addEventListener("dragleave", () => { if (--over <= 0) document.body.classList.remove("dropping"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  document.body.classList.remove("dropping");
  if (event.dataTransfer?.files[0]) take(event.dataTransfer.files[0]);
});

// a digit is an entity's number, two quickly after each other as well
let typed = "";
let typing = null;
addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select, textarea") || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "Escape" && !$("work").hidden && (state().e || state().box)) go({ ...state(), e: null, box: null, right: [], wrong: [] });
  if (!/^\d$/.test(event.key) || $("work").hidden) return;
  typed += event.key;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const number = Number(typed);
    typed = "";
    if (number >= 1 && number <= photo.entities.length) go({ ...state(), box: null, right: [], wrong: [], e: number });
  }, photo.entities.length > 9 ? 450 : 0);
});

// --- the start ---------------------------------------------------------------------------------

let seed = 0;
let looks = null;

async function showStart() {
  document.title = "vesearch";
  showPhoto.shown = null;
  clearTimeout(looks);
  let busy = false;
  try {
    const found = await api.status();
    busy = Boolean(found.writer);
    $("collection").replaceChildren(...about(found));
    if (!$("some").children.length && found.images) await showSome();
    if (!$("groups").children.length && found.index) await showGroups();
  } catch (fault) {
    $("collection").replaceChildren(html("p", { class: "lead", text: `${fault.message}` }));
  }
  if (!$("start").hidden) looks = setTimeout(showStart, busy ? 3000 : 30000);
}

function about(found) {
  const facts = html("dl");
  const fact = (name, value) => facts.append(html("div", {}, html("dt", { text: name }), html("dd", { text: value })));
  fact("photos", found.images.toLocaleString());
  fact("entities", found.entities.toLocaleString());
  if (found.skipped_count) fact("skipped", found.skipped_count.toLocaleString());
  const made = [facts];
  if (found.writer) {
    const { done, total } = found.writer;
    const told = html("p", { text: total ? `Being added: ${done.toLocaleString()} of ${total.toLocaleString()} photos` : "The collection is being written." });
    made.push(told);
    if (total) made.push(html("progress", { max: total, value: done, "aria-label": "photos added" }));
  }
  if (!found.index) made.push(html("p", {}, "Nothing can be searched yet: run ", html("code", { text: "vesearch build-index" }), "."));
  if (found.skipped_count) {
    const list = html("ul");
    found.skipped.forEach((one) => list.append(html("li", { dir: "auto", text: `${one.path}: ${one.error || one.status}` })));
    if (found.skipped_count > found.skipped.length) list.append(html("li", { text: "… vesearch status lists all" }));
    made.push(html("details", {}, html("summary", { text: "What was skipped, and why" }), list));
  }
  return made;
}

async function showGroups() {
  const found = await api.groups();
  $("groups").replaceChildren(...found.map((one) => {
    const told = `${one.photos} photos`;
    const address = addressOf({ image: String(one.image), e: one.entity });
    const link = html("a", { href: address }, tile({ ...one, parts: [], spots: [] }), html("span", { class: "count", text: told }), html("span", { class: "hidden", text: `show what is like this, in ${nameOf(one.path)}` }));
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      go({ image: String(one.image), photo: null, e: one.entity, sure: ALIKE });
    });
    return html("li", {}, link);
  }));
  $("groups-title").hidden = !found.length;
}

async function showSome() {
  const found = await api.some(seed);
  $("some").replaceChildren(...found.map((one) => {
    const link = html("a", { href: `/?image=${one.image}` }, html("img", { src: `/api/photos/${one.image}?size=320`, alt: nameOf(one.path), loading: "lazy" }));
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      go({ image: String(one.image), photo: null, sure: ALIKE });
    });
    return html("li", {}, link);
  }));
  $("some-title").hidden = $("others").hidden = !found.length;
}

$("others").addEventListener("click", () => { seed++; showSome(); });
document.addEventListener("unreached", () => { $("offline").hidden = false; });
document.addEventListener("reached", () => { $("offline").hidden = true; });

history.scrollRestoration = "auto";
show();
