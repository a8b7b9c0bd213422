// The lab view: a tab for each machine and each kernel (ARIA's tabs pattern: arrow keys move, the open one is shown).
// Python is told which tab is open, and asks only for that one's document.

function panelOf(tab, { words, language, want, act, memory }) {
  const feed = { document: {}, history: new History(), memory: new Map() };
  const el = h("div", { role: "tabpanel", tabindex: "-1", id: tab.panel, "aria-labelledby": tab.button.id });
  const source = {
    words: { ...words, ...words.views[tab.kind] }, language, feed,
    act: (name, args) => act("act", { tab: tab.id, name, arguments: args }),
    want: (parts) => (memory.set(tab.id, parts.map((part) => `${tab.id} ${part}`)), want()),
  };
  const painted = paint(el, source, draws[tab.kind]);
  return { node: el, update: (document) => ((feed.document = document ?? {}), painted.update(feed.document.failure ?? "")) };
}

function draw({ body, root, words, language, want, act, memory, replays }) {
  const bar = h("div", { class: "vmc-tabs", role: "tablist", "aria-label": words.tabs }), place = h("div");
  const made = new Map(), prefix = "vmc" + Math.random().toString(36).slice(2);
  let open = null, latest = { tabs: [] };
  body.append(bar, place);
  setAttribute(root, "aria-label", words.lab);
  const tell = () => want(open === null ? [] : [open, ...(memory.get(open) ?? [])]);
  const stage = { words, language, want: tell, act, memory };

  const choose = (id, focus = false) => {
    open = id;
    for (const [name, tab] of made) {
      setAttribute(tab.button, "aria-selected", String(name === id));
      setAttribute(tab.button, "tabindex", name === id ? "0" : "-1");
    }
    const tab = made.get(id);
    if (tab) {
      tab.view ??= panelOf(tab, stage);
      place.replaceChildren(tab.view.node);
      if (focus) tab.button.focus();
    } else place.replaceChildren();
    tell();
    update(latest);
  };
  const onKey = (event) => {
    const ids = [...made.keys()], at = ids.indexOf(open);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(ids[(to + ids.length) % ids.length], true);
  };
  bar.addEventListener("keydown", onKey);

  const add = (tab, index) => {
    const id = `${prefix}-${made.size}-${index}`;
    const button = h("button", { type: "button", role: "tab", id, class: "vmc-tab", "aria-selected": "false", tabindex: "-1", "aria-controls": `${id}-panel` });
    const kind = lookup(words.kinds, tab.kind) ?? visible(tab.kind, 20);
    button.append(h("span", { class: "vmc-soft" }, `${kind} `), h("bdi", {}, visible(tab.title, 40)));
    button.addEventListener("click", () => choose(String(tab.id)));
    made.set(String(tab.id), { id: String(tab.id), kind: tab.kind, button, panel: `${id}-panel` });
  };
  const arrange = (tabs) => {
    const names = tabs.map((tab) => String(tab.id));
    for (const [name, tab] of made) if (!names.includes(name)) tab.button.remove(), made.delete(name);
    tabs.forEach((tab, index) => made.has(String(tab.id)) || add(tab, index));
    names.forEach((name, index) => bar.children[index] !== made.get(name).button && bar.insertBefore(made.get(name).button, bar.children[index] ?? null));
  };
  const update = (view) => {
    latest = view;
    arrange(objects(view.tabs).filter((tab) => Object.hasOwn(draws, tab.kind)));
    // A recording holds what was shown: it says which tab was open.
    const recorded = replays && Object.keys(view.documents ?? {}).find((name) => made.has(name));
    if (recorded && !Object.hasOwn(view.documents, open)) return choose(recorded);
    if (!made.has(open)) return void (made.size ? choose(made.keys().next().value) : (open = null));
    made.get(open).view?.update(view.documents?.[open]);
  };
  return update;
}
