// The page's side of a view without a Jupyter: as much of anywidget's front end as a view may use.
//
//   stage.open(id, { esm, css, state })   a model, and `initialize` of its module
//   stage.render(id)                      one more view of it; its number
//   stage.deliver([[id, message], ...])   what Python sends; stage.take() is what the page sends
//
// The interface of models is https://anywidget.dev/en/afm/; messages are Jupyter's ("update" with a state, "custom").

const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

class Model {
  constructor(state, say) {
    Object.assign(this, { state, say, changed: {}, listeners: new Map() });
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    this.put(name, value) && (this.changed[name] = value);
  }
  put(name, value) {
    if (same(this.state[name], value)) return false;
    this.state[name] = value;
    this.tell(`change:${name}`, this, value);
    return true;
  }
  save_changes() {
    if (Object.keys(this.changed).length) this.say({ method: "update", state: this.changed });
    this.changed = {};
  }
  send(content) {
    this.say({ method: "custom", content });
  }
  on(name, callback) {
    this.listeners.set(name, [...(this.listeners.get(name) ?? []), callback]);
  }
  off(name, callback) {
    const left = (this.listeners.get(name) ?? []).filter((one) => callback && one !== callback);
    this.listeners.set(name, left);
  }
  tell(name, ...values) {
    for (const callback of this.listeners.get(name) ?? []) callback(...values);
  }
  receive({ method, state, content }) {
    if (method === "custom") return this.tell("msg:custom", content, []);
    const changes = Object.entries(state).filter(([name, value]) => this.put(name, value));
    if (changes.length) this.tell("change", this);
  }
}

const opened = new Map(), outbox = [], modules = new Map();

// A module is kept by the browser for as long as the page lives (HTML, "module map"), so each is loaded once.
async function load(esm) {
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const loaded = (await import(url)).default;
  URL.revokeObjectURL(url);
  return typeof loaded === "function" ? loaded() : loaded;
}

async function open(id, { esm, css, state }) {
  if (!modules.has(esm)) modules.set(esm, load(esm));
  const module = await modules.get(esm);
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const model = new Model(state, (message) => outbox.push([id, message]));
  const end = await module.initialize?.({ model });
  opened.set(id, { model, module, style, end, views: new Map(), count: 0 });
}

async function render(id) {
  const one = opened.get(id), el = document.createElement("div");
  el.className = "output";
  document.querySelector("main").append(el);
  const number = one.count++, end = await one.module.render({ model: one.model, el });
  one.views.set(number, () => (end?.(), el.remove()));
  return number;
}

function leave(id, number) {
  const { views } = opened.get(id);
  views.get(number)();
  views.delete(number);
}

function close(id) {
  const one = opened.get(id);
  for (const number of [...one.views.keys()]) leave(id, number);
  one.end?.();
  one.style.remove();
  opened.delete(id);
}

window.stage = {
  open,
  render,
  leave,
  close,
  take: () => outbox.splice(0),
  deliver: (messages) => messages.forEach(([id, message]) => opened.get(id)?.model.receive(message)),
  state: (id) => opened.get(id).model.state,
};
