// What a match must be: the form, and the question that it makes.

import { html } from "./draw.js";
import { ALIKE, state } from "./state.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["in", "since", "until", "area", "label"];
const CHECKS = ["nostuff", "explain"];

// entities: of the photo that is shown, as far as they are there
export function fill(now, entities = []) {
  const form = $("filters").elements;
  for (const name of ["sure", ...FIELDS]) if (document.activeElement !== form[name] || name === "sure") form[name].value = now[name];
  for (const name of CHECKS) form[name].checked = now[name];
  form.explain.disabled = now.e.length > 1;
  const labels = [...new Set(entities.map((one) => one.label).filter(Boolean))];
  $("label").hidden = !labels.length && !now.label;
  $("labels").replaceChildren(...labels.map((label) => html("option", { value: label })));
  if ([...FIELDS, ...CHECKS].some((name) => now[name])) $("more").open = true;
  tellSure(now.sure);
}

function tellSure(sure) {
  const word = sure >= 0.85 ? "the same" : sure >= ALIKE ? "alike" : "however unlike";
  $("sure-told").textContent = sure > 0 ? `at least ${Math.round(sure * 100)} %: ${word}` : "show all";
}

let waits = null;

export function listen(go) {
  $("filters").addEventListener("input", () => {
    const form = $("filters").elements;
    tellSure(Number(form.sure.value));
    clearTimeout(waits);
    waits = setTimeout(() => {
      const wanted = { ...state(), sure: Number(form.sure.value) };
      for (const name of FIELDS) wanted[name] = form[name].value;
      for (const name of CHECKS) wanted[name] = form[name].checked;
      go(wanted, { replace: true });
    }, 350);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}
