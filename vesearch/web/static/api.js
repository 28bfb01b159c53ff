// Ask the server; every error is one line for people.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function asked(address, options = {}) {
  for (let tries = 0; ; tries++) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch (fault) {
      if (fault.name === "AbortError") throw fault;
      document.dispatchEvent(new CustomEvent("unreached"));
      throw new Refused("The server does not answer.", 0);
    }
    document.dispatchEvent(new CustomEvent("reached"));
    if (answer.status === 429 && tries < 5) {
      const seconds = Number(answer.headers.get("retry-after")) || 1;
      await new Promise((done) => setTimeout(done, seconds * 1000));
      continue;
    }
    if (answer.ok) return answer.json();
    let told = `The server says ${answer.status}.`;
    try {
      told = (await answer.json()).error || told;
    } catch { /* no JSON: the number has to do */ }
    throw new Refused(told, answer.status);
  }
}

export const api = {
  status: () => asked("/api/status"),
  some: (seed) => asked(`/api/browse?count=24&seed=${seed}`),
  groups: () => asked("/api/groups?top=12"),
  stored: (image, signal) => asked(`/api/photos/${image}/entities`, { signal }),
  upload: (name, signal) => asked(`/api/uploads/${encodeURIComponent(name)}/entities`, { signal }),
  entities: (file, signal) => asked("/api/entities", {
    method: "POST", body: file, signal, headers: { "content-type": "application/octet-stream" },
  }),
  search: (question, signal) => asked("/api/search", {
    method: "POST", body: JSON.stringify(question), signal, headers: { "content-type": "application/json" },
  }),
};

export const pictureOf = (state, size) => (state.photo
  ? `/api/uploads/${encodeURIComponent(state.photo)}?size=${size}`
  : `/api/photos/${state.image}?size=${size}`);
