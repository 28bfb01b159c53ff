// What was marked right and wrong: small pictures, each of which takes its mark back.

import { api } from "./api.js";
import { html, tile } from "./draw.js";
import { RANKS } from "./state.js";

const met = new Map(); // entity -> the match that it was
const MOST = 1000;

export function meet(matches) {
  for (const match of matches) met.set(match.entity_id, match);
  for (const id of met.keys()) if (met.size > MOST) met.delete(id);
}

export function marksOf(now, go) {
  const several = now.e.length > 1;
  const marked = [["right", "Right"], ["wrong", "Wrong"]].flatMap(([name, told]) => (several && name === "right" ? [] : now[name].map((id) => [name, told, id])));
  const made = marked.map(([name, told, id]) => {
    const back = html("button", { type: "button", class: `mark ${name}`, "data-key": `${name} ${id}`, "aria-label": `${told}: take it back`, title: `${told}: take it back` });
    draw(back, id);
    back.append(html("span", { "aria-hidden": "true", text: name === "right" ? "✓" : "✗" }));
    back.addEventListener("click", () => {
      go({ ...now, [name]: now[name].filter((other) => other !== id) });
      document.getElementById("told").focus();
    });
    return back;
  });
  return made.length ? [html("span", { class: "quiet", text: "Refined by" }), ...made] : [];
}

// as it was shown, or else, after reloading, as the collection has it
async function draw(button, id) {
  if (met.has(id)) return button.prepend(tile({ ...met.get(id), spots: [] }));
  try {
    const image = Math.floor(id / RANKS);
    const found = await api.stored(image);
    const entity = found.entities[id % RANKS];
    meet([{ ...entity, entity_id: id, image, width: found.width, height: found.height, parts: [], spots: [] }]);
    button.prepend(tile(met.get(id)));
  } catch { /* it is not there any more: its mark can be taken back all the same */ }
}
