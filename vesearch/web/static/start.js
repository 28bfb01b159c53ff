// The start: what the collection has, how far an ingest is, and photos and things to begin with.

import { api } from "./api.js";
import { html, tile } from "./draw.js";
import { addressOf, ALIKE, nameOf, NOTHING } from "./state.js";

const $ = (id) => document.getElementById(id);
const BUSY_MS = 3000;
const IDLE_MS = 10000;
let seed = 0;
let looks = null;
let fills = null; // the photos and groups that are under way: they may take long

export async function showStart(go) {
  clearTimeout(looks);
  let busy = false;
  try {
    const found = await api.status();
    busy = Boolean(found.writer);
    $("collection").replaceChildren(...about(found));
    fills ??= fill(found, go).catch(() => {}).finally(() => { fills = null; });
  } catch (fault) {
    $("collection").replaceChildren(...(fault.status === 503 ? howToBegin(fault.message) : [html("p", { class: "lead", text: fault.message })]));
  }
  clearTimeout(looks); // it may have been shown again meanwhile
  if (!$("start").hidden) looks = setTimeout(() => showStart(go), busy ? BUSY_MS : IDLE_MS);
}

async function fill(found, go) {
  if (!$("some").children.length && found.images) await showSome(go);
  if (!$("groups").children.length && found.index) await showGroups(go);
}

// where there is no collection yet: what the server says, and what to run
function howToBegin(message) {
  const run = (text) => html("li", {}, html("code", { text }));
  return [html("div", { class: "begin" },
    html("h2", { text: "There is no collection yet" }),
    html("p", { text: "You can look at the things in a photo of yours already. To search, let it take in some photos:" }),
    html("ol", {}, run("vesearch ingest photos/"), run("vesearch build-index")),
    html("p", { class: "quiet", text: message }))];
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
    made.push(html("p", { text: total ? `Being added: ${done.toLocaleString()} of ${total.toLocaleString()} photos` : "The collection is being written." }));
    if (total) made.push(html("progress", { max: total, value: done, "aria-label": "photos added" }));
  }
  if (!found.index) made.push(html("p", {}, "Nothing can be searched yet: run ", html("code", { text: "vesearch build-index" }), "."));
  const missing = notTaken(found);
  if (missing.length) made.push(skipped(missing));
  return made;
}

// every photo that is not there as it should be, and why
function notTaken(found) {
  const files = (count) => `${count.toLocaleString()} ${count === 1 ? "file" : "files"}`;
  return [
    ...found.unread.map((one) => `${files(one.files)} of the format ${one.format} are not read${one.advice ? `: ${one.advice}` : ""}`),
    ...Object.entries(found.left_out).map(([rule, count]) => `${files(count)} left out by the rule ${rule}`),
    ...found.skipped.map((one) => `${one.path}: ${one.error || one.status}`),
    ...(found.skipped_count > found.skipped.length ? ["… vesearch status lists all"] : []),
    ...found.noted.map((one) => `${one.path}: taken in, but ${one.note}`),
  ];
}

function skipped(texts) {
  const list = html("ul", {}, ...texts.map((text) => html("li", { dir: "auto", text })));
  const shown = html("details", {}, html("summary", { text: "What was skipped, and why" }), list);
  shown.open = Boolean(document.querySelector("#collection details")?.open); // it is made anew now and then
  return shown;
}

// a link that a plain click follows within the page
export function follows(link, wanted, go) {
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(wanted);
  });
  return link;
}

async function showGroups(go) {
  const found = await api.groups();
  $("groups").replaceChildren(...found.map((one) => {
    const wanted = { ...NOTHING, image: String(one.image), photo: null, e: [one.entity], sure: ALIKE };
    const link = html("a", { href: addressOf(wanted) }, tile({ ...one, parts: [], spots: [] }), html("span", { class: "count", text: `${one.photos} photos` }), html("span", { class: "hidden", text: `show what is like this, in ${nameOf(one.path)}` }));
    return html("li", {}, follows(link, wanted, go));
  }));
  $("groups-title").hidden = !found.length;
}

async function showSome(go) {
  const found = await api.some(seed);
  $("some").replaceChildren(...found.map((one) => {
    const wanted = { ...NOTHING, image: String(one.image), photo: null, sure: ALIKE };
    const link = html("a", { href: addressOf(wanted) }, html("img", { src: `/api/photos/${one.image}?size=320`, alt: nameOf(one.path), loading: "lazy" }));
    return html("li", {}, follows(link, wanted, go));
  }));
  $("some-title").hidden = $("others").hidden = !found.length;
}

export function others(go) {
  seed++;
  return showSome(go);
}
