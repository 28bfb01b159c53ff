// What is asked, as the address has it: going back, reloading and sharing work.

export const ALIKE = 0.5;
export const TOP = 24;
export const MOST = 200; // matches that the server tells at once
export const RANKS = 1000; // an entity's id is its image's id times this, and its number less one
const MOST_THINGS = 8;

const numbers = (text) => (text ? text.split(",").map(Number).filter(Number.isFinite) : []);

// nothing of a photo is chosen
export const NOTHING = { e: [], box: null, point: null, whole: false, right: [], wrong: [], top: TOP };

// e: the numbers of entities, of several what a photo must show at once
export function state() {
  const query = new URLSearchParams(location.search);
  const box = numbers(query.get("box"));
  const point = numbers(query.get("point"));
  return {
    image: /^\d{1,18}$/.test(query.get("image")) ? query.get("image") : null,
    photo: query.get("photo"),
    e: numbers(query.get("e")).filter((e) => Number.isInteger(e) && e > 0).slice(0, MOST_THINGS),
    box: box.length === 4 ? box : null,
    point: point.length === 2 ? point : null,
    whole: query.get("whole") === "1",
    sure: query.has("sure") ? Math.min(Math.max(Number(query.get("sure")) || 0, 0), 1) : ALIKE,
    top: Math.min(Math.max(Math.trunc(Number(query.get("top"))) || TOP, 1), MOST),
    in: query.get("in") || "",
    since: query.get("since") || "",
    until: query.get("until") || "",
    area: query.get("area") || "",
    label: query.get("label") || "",
    nostuff: query.get("nostuff") === "1",
    explain: query.get("explain") === "1",
    right: numbers(query.get("right")),
    wrong: numbers(query.get("wrong")),
  };
}

export function addressOf(wanted) {
  const query = new URLSearchParams();
  for (const name of ["image", "photo"]) if (wanted[name]) query.set(name, wanted[name]);
  for (const name of ["e", "box", "point", "right", "wrong"]) if (wanted[name]?.length) query.set(name, wanted[name].join(","));
  for (const name of ["in", "since", "until", "area", "label"]) if (wanted[name]) query.set(name, wanted[name]);
  if (wanted.sure !== undefined && wanted.sure !== ALIKE) query.set("sure", wanted.sure);
  if (wanted.top && wanted.top !== TOP) query.set("top", wanted.top);
  for (const name of ["whole", "nostuff", "explain"]) if (wanted[name]) query.set(name, "1");
  return query.size ? `/?${query}` : "/";
}

export const isChosen = (now) => Boolean(now.e.length || now.box || now.point || now.whole);
export const keyOf = (now) => now.photo || `image ${now.image}`;
export const nameOf = (path) => (path || "").split("/").slice(-2).join("/");

// with one more thing, or without it where it is there
export function toggled(numbersNow, e) {
  return numbersNow.includes(e) ? numbersNow.filter((n) => n !== e) : [...numbersNow, e].slice(-MOST_THINGS);
}

export function question(now) {
  const of = now.photo ? { photo: now.photo } : { image: Number(now.image) };
  const several = now.e.length > 1;
  const shown = now.whole ? [{ whole: true }] : now.box ? [{ box: now.box }] : now.point ? [{ point: now.point }] : now.e.map((entity) => ({ entity }));
  const right = several ? [] : now.right.map((id) => ({ entity_id: id })); // of which of them would it be?
  const places = now.in.trim() ? [now.in.trim()] : [];
  return {
    positives: [...shown.map((one) => ({ ...of, ...one })), ...right],
    negatives: now.wrong.map((id) => ({ entity_id: id })),
    mode: several ? "all" : "mean",
    where: { places, since: now.since || null, until: now.until || null, min_area: Number(now.area) || 0, stuff: !now.nostuff, label: now.label || null },
    min_confidence: now.sure,
    explain: now.explain && !several,
    top: now.top,
  };
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// the command that asks the same; named: the photo's path, store: of the collection
export function commandOf(now, named, store) {
  const right = now.e.length > 1 ? [] : now.right;
  const by_id = right.length > 0 && now.e.length === 1;
  const parts = ["vesearch query", quoted(by_id ? `${named}#${now.e[0]}` : named)];
  if (by_id) right.forEach((id) => parts.push("--id", id));
  else if (now.whole) parts.push("--whole");
  else if (now.box) parts.push("--box", now.box.join(","));
  else if (now.point) parts.push("--point", now.point.join(","));
  else now.e.forEach((e) => parts.push("--entity", e));
  now.wrong.forEach((id) => parts.push("--not", id));
  for (const [name, option] of [["in", "--in"], ["since", "--since"], ["until", "--until"], ["area", "--min-area"], ["label", "--label"]]) {
    if (now[name]) parts.push(option, quoted(now[name].trim()));
  }
  if (now.nostuff) parts.push("--exclude-stuff");
  if (now.explain && now.e.length < 2) parts.push("--explain");
  parts.push("--top", now.top, "--min-confidence", now.sure);
  if (store && !/^(\.\/)?vesearch-store$/.test(store)) parts.push("--store", quoted(store));
  if (right.length && !by_id) parts.push("  # without the marks of what is right");
  return parts.join(" ");
}
