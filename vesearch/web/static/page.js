// The page: what is shown follows from its address, and what is done changes that.

import { api, pictureOf } from "./api.js";
import { card, forgetChosen, offerCopies, showChosen } from "./cards.js";
import { html, tile } from "./draw.js";
import { fill, listen } from "./filters.js";
import { marksOf, meet } from "./marks.js";
import { Photo } from "./photo.js";
import { follows, others, showStart } from "./start.js";
import { addressOf, ALIKE, isChosen, keyOf, MOST, nameOf, NOTHING, question, state, toggled, TOP } from "./state.js";

const $ = (id) => document.getElementById(id);
const local = new Map(); // an upload's name -> the address of the file in this page
const known = new Map(); // a photo -> its entities
let going = null; // what ends the question that is under way
let adding = false; // whether the next thing that is picked is one more
let shown = null; // the photo that is shown

const photo = new Photo($("photo"), (picked, more) => pick(picked, more));

// --- going from question to question -----------------------------------------------------------

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

function pick({ e, box, point }, more = false) {
  const now = state();
  if (shown !== keyOf(now)) return; // a new photo, whose entities are not known yet
  if ((more || adding) && now.e.length && !box) {
    if (e) go({ ...now, ...NOTHING, e: toggled(now.e, e) }); // beside them: a thing was missed
  } else go({ ...now, ...NOTHING, e: e ? [e] : [], box: box || null, point: point || null });
}

addEventListener("popstate", () => show());

async function show() {
  going?.abort();
  const ends = going = new AbortController();
  const now = state();
  const asks = Boolean(now.image || now.photo);
  $("start").hidden = asks;
  $("work").hidden = !asks;
  $("work").classList.remove("failed");
  showTrail();
  if (!asks) {
    document.title = "vesearch";
    shown = null;
    return showStart(go);
  }
  fill(now, known.get(keyOf(now))?.entities);
  try {
    await showPhoto(now, ends.signal);
    if (ends.signal.aborted) return;
    fill(now, known.get(keyOf(now)).entities);
    await showMatches(now, ends.signal);
  } catch (fault) {
    if (fault.name !== "AbortError") tell(fault.message, { bad: true, buttons: fault.status === 404 ? [] : [["Try again", show]] });
  } finally {
    if (going === ends) photo.busy(false);
  }
}

function showTrail() {
  const trail = history.state?.trail || [];
  const first = Math.max(0, trail.length - 6);
  $("trail").replaceChildren(...trail.slice(first).map((step, i) => {
    const address = local.get(step.photo) || pictureOf(step, 160);
    const link = html("a", { href: step.address, "aria-label": `Back to question ${first + i + 1}` }, html("img", { src: address, alt: "" }));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      history.pushState({ trail: trail.slice(0, first + i) }, "", step.address);
      show();
    });
    return link;
  }));
}

// --- the photo ---------------------------------------------------------------------------------

async function showPhoto(now, signal) {
  const key = keyOf(now);
  if (shown !== key) {
    forgetChosen();
    $("cards").replaceChildren();
    $("things").hidden = true;
    shown = null;
    adding = false;
    photo.place.replaceChildren();
    const about = known.get(key);
    photo.busy(!about);
    tell(about ? "" : "Finding its entities …");
    const found = about || (now.photo ? await api.upload(now.photo, signal) : await api.stored(now.image, signal));
    known.set(key, found);
    if (signal.aborted) return;
    const title = (nameOf(found.path) || "Your photo") + (found.stale ? " (changed since it was taken in)" : "");
    document.title = `${title} · vesearch`;
    $("photo-title").textContent = title;
    photo.show(local.get(now.photo) || pictureOf(now, 1280), found.width, found.height, `${title} and its entities`);
    photo.set(found.entities);
    showThings(now, found);
    shown = key;
    photo.busy(false);
  }
  photo.choose(now);
  showWays(now);
}

// beside the photo: its things by themselves, for those that are small or lie within others
function showThings(now, found) {
  const address = local.get(now.photo) || pictureOf(now, 1280);
  $("things").replaceChildren(...found.entities.map((entity) => {
    const wanted = { ...state(), ...NOTHING, e: [entity.entity] };
    const drawn = tile({ ...entity, width: found.width, height: found.height, parts: [], spots: [], peak: null }, address);
    const link = html("a", { href: addressOf(wanted) }, drawn, html("span", { class: "count", text: entity.entity }), html("span", { class: "hidden", text: `Look for ${entity.stuff ? "background" : "entity"} ${entity.entity}${entity.label ? `, ${entity.label}` : ""}` }));
    for (const [event, is] of [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]]) link.addEventListener(event, () => photo.hot(entity.entity, is));
    return html("li", {}, follows(link, wanted, (on) => {
      go(on);
      photo.place.querySelector(`[data-entity="${entity.entity}"]`)?.focus();
    }));
  }));
}

function showWays(now) {
  $("ways").hidden = false;
  $("whole").setAttribute("aria-pressed", String(now.whole));
  $("draw").setAttribute("aria-pressed", String(Boolean(now.box)));
  $("point").setAttribute("aria-pressed", String(Boolean(photo.aim)));
  $("add").hidden = !now.e.length || known.get(keyOf(now)).entities.length < 2;
  if (!now.e.length) adding = false;
  $("add").setAttribute("aria-pressed", String(adding));
  $("clear").hidden = !isChosen(now);
  $("marks").replaceChildren(...marksOf(now, go));
  showHint(now);
}

function showHint(now) {
  const touch = matchMedia("(pointer: coarse)").matches;
  $("hint").textContent = adding ? "Pick another thing: photos are found that show all of them."
    : now.e.length > 1 ? "Photos that show all of these."
    : photo.aim && !now.point ? (touch ? "Drag the crosshair onto a thing, or tap one." : "The arrow keys move the crosshair, with Shift finely; Enter looks for what is there. Or click a thing.")
      : touch ? "Tap a thing, also one without a number. Hold and drag to draw a box of your own."
        : "Click a thing, also one without a number, or press its number; with Shift, one more. Drag to draw a box of your own.";
}

$("whole").addEventListener("click", () => {
  const now = state();
  go({ ...now, ...NOTHING, whole: !now.whole });
});
// a box to begin with, for who cannot drag one
$("draw").addEventListener("click", () => {
  const now = state();
  const [w, h] = photo.size;
  go({ ...now, ...NOTHING, box: now.box ? null : [w / 4, h / 4, (3 * w) / 4, (3 * h) / 4].map(Math.round) });
  photo.place.querySelector("[data-own=move]")?.focus();
});
// a crosshair to begin with, for who cannot click
$("point").addEventListener("click", () => {
  const now = state();
  if (isChosen(now)) go({ ...now, ...NOTHING });
  photo.point(now.point || photo.aim ? null : undefined);
  showWays(state());
});
$("add").addEventListener("click", () => {
  adding = !adding;
  showWays(state());
});
$("clear").addEventListener("click", () => {
  go({ ...state(), ...NOTHING });
  $("whole").focus();
});

// --- the answer --------------------------------------------------------------------------------

async function showMatches(now, signal) {
  const asks = isChosen(now);
  $("filters").hidden = !asks;
  $("things").hidden = asks;
  $("next").hidden = true;
  if (!asks) {
    $("cards").replaceChildren();
    showChosen();
    const { entities, at_limit: more } = known.get(keyOf(now));
    return tell(entities.length ? `${entities.length} ${entities.length === 1 ? "entity" : "entities"}${more ? ", maybe more" : ""}: pick the one to look for.` : "No entity was found here: click a thing all the same, draw a box, or look for the whole photo.");
  }
  $("cards").classList.add("old");
  tell("Searching …");
  const answer = await api.search(question(now), signal);
  if (signal.aborted) return;
  $("cards").classList.remove("old");
  meet(answer.matches);
  const key = document.activeElement?.dataset?.key; // of what was pressed on a card
  $("cards").replaceChildren(...answer.matches.map((match) => card(match, now, go)));
  if (key) ($("cards").querySelector(`[data-key="${key}"]`) || $("marks").querySelector(`[data-key="${key}"]`) || $("told")).focus();
  const spots = new Map(answer.matches.flatMap((match) => match.spots.map((s) => [s.letter, s.query_at])));
  photo.choose(now, [...spots], now.point && answer.asked.outlines);
  tellFound(now, answer);
  showChosen();
}

function tellFound(now, { matches, left_out: less }) {
  const { length } = matches;
  const found = length ? `${length} ${length === 1 ? "photo" : "photos"}.` : now.e.length > 1 ? "No photo shows all of these." : "Nothing is alike.";
  const left = less ? ` ${less} less sure ${less === 1 ? "one is" : "ones are"} left out.` : "";
  const nearest = [length ? "Show them" : "Show what is nearest", () => go({ ...now, sure: 0 }, { replace: true })];
  tell(found + left, { buttons: less ? [nearest] : [] });
  $("next").hidden = length < now.top || now.top >= MOST;
}

$("next").addEventListener("click", () => {
  const now = state();
  go({ ...now, top: Math.min(MOST, now.top + 2 * TOP) }, { replace: true });
});

// buttons: [[text, what it does]]
function tell(text, { bad = false, buttons = [] } = {}) {
  const place = $("told");
  place.classList.toggle("bad", bad);
  const within = place.contains(document.activeElement);
  place.replaceChildren(html("span", { text }), ...buttons.map(([name, does]) => {
    const made = html("button", { type: "button", class: "button", text: name });
    made.addEventListener("click", () => does());
    return made;
  }));
  if (within) place.focus(); // the button that was pressed is gone
}

listen(go);
offerCopies(() => known.get(keyOf(state()))?.path);

// --- a new photo -------------------------------------------------------------------------------

async function take(file) {
  going?.abort();
  const ends = going = new AbortController();
  startTaking(file);
  const address = URL.createObjectURL(file);
  const size = await sizeOf(address);
  if (ends.signal.aborted) return;
  if (size) photo.show(address, ...size, "Your photo"); // at once, where the browser can read it
  try {
    const found = await api.entities(file, ends.signal);
    found.path = found.path || file.name || "";
    known.set(found.photo, found);
    if (size) local.set(found.photo, address);
    go({ ...NOTHING, photo: found.photo, image: null, sure: ALIKE });
  } catch (fault) {
    if (fault.name === "AbortError") return;
    if (fault.status) $("work").classList.add("failed"); // else the photo stays: it may work in a moment
    const buttons = [["Choose another photo", () => $("file").click()], ["Back", () => show()]];
    if (!fault.status || fault.status >= 429) buttons.unshift(["Try again", () => take(file)]);
    tell(`${file.name || "This photo"} cannot be searched: ${fault.message}`, { bad: true, buttons });
  } finally {
    if (going === ends) photo.busy(false);
  }
}

function startTaking(file) {
  $("start").hidden = true;
  $("work").hidden = false;
  $("work").classList.remove("failed");
  for (const name of ["filters", "ways", "things", "next"]) $(name).hidden = true;
  for (const name of ["cards", "marks", "hint"]) $(name).replaceChildren();
  forgetChosen();
  $("photo-title").textContent = file.name || "Your photo";
  photo.place.replaceChildren();
  shown = null;
  photo.busy(true);
  tell("Finding its entities …");
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

// a digit is an entity's number, two quickly after each other as well; with Shift, one more
let typed = "";
let typing = null;
addEventListener("keydown", (event) => {
  if (event.target.closest?.("input:not([type=range], [type=checkbox], [type=file]), select, textarea") || event.metaKey || event.ctrlKey || event.altKey || $("work").hidden) return;
  if (event.key === "Escape" && (isChosen(state()) || photo.aim)) {
    if (photo.aim) $("point").focus(); // the crosshair goes away
    return isChosen(state()) ? go({ ...state(), ...NOTHING }) : $("point").click();
  }
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1] ?? (/^\d$/.test(event.key) ? event.key : null);
  if (digit === null) return;
  // on keyboards whose digits need Shift, as French ones, it says nothing more
  const more = event.shiftKey && !/^\d$/.test(event.key);
  typed += digit;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const number = Number(typed);
    typed = "";
    if (number >= 1 && number <= photo.entities.length) pick({ e: number }, more);
  }, photo.entities.length > 9 ? 450 : 0);
});

// --- the start ---------------------------------------------------------------------------------

$("others").addEventListener("click", () => others(go));
document.addEventListener("unreached", () => { $("offline").hidden = false; });
document.addEventListener("reached", () => { $("offline").hidden = true; });

history.scrollRestoration = "auto";
show();
