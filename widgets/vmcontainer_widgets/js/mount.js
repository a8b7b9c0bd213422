// How a view is joined to Python (view.py is the other end). A view's own files declare `draw(stage)`, which builds the
// page once inside `stage.body` and returns update(document, failure).
//
//   Python ── {change, number} ──▶ feed.document, changed in place ──▶ one animation frame ──▶ update(): what differs
//          ◀── {seen: number} ──── so that a slow page is told less often, never later
//          ◀── {act, id, arguments} ── a button ── {answer: id, ok, text} ──▶
//          ◀── watched, wanted (traits): is it looked at, and which of its optional parts are open
//          ◀─▶ {stream, …} and bytes: what is no document (a terminal's bytes, a picture); stage.send, stage.listen

// Python is heard of at least every three seconds by a page that watches.
const SILENCE_MS = 8000;

// Make a change of `difference` (vmcontainer_kernel/delta.py): JSON Pointers to what is set, and to what is gone.
function applyChange(document, change) {
  if ("" in (change.set ?? {})) return structuredClone(change.set[""]);
  const holder = (place) => {
    const way = place.split("/").slice(1).map((word) => word.replaceAll("~1", "/").replaceAll("~0", "~"));
    const last = way.pop();
    return [way.reduce((part, word) => part[word], document), last];
  };
  for (const place of change.gone ?? []) {
    const [part, name] = holder(place);
    delete part[name];
  }
  for (const [place, value] of Object.entries(change.set ?? {})) {
    const [part, name] = holder(place);
    Object.defineProperty(part, name, { value, writable: true, enumerable: true, configurable: true });
  }
  return document;
}

// What Python told a model, kept once for all views of it in this page. anywidget gives `initialize` and each `render`
// an object of its own for the same model: its identity is what they share.
const feeds = new Map();

function feedOf(model) {
  const identity = model.get("identity");
  if (feeds.has(identity)) return feeds.get(identity);
  const feed = { document: {}, number: 0, history: new History(), memory: new Map(), listeners: new Set(), streams: new Set(), answers: new Map() };
  const page = Math.random().toString(36).slice(2);
  const whole = (document, number) => Object.assign(feed, { document: structuredClone(document ?? {}), number: number ?? 0 });
  const tell = () => feed.listeners.forEach((listener) => listener());
  feed.seen = () => model.send({ seen: feed.number, page });
  feed.act = (name, args) => new Promise((resolve) => {
    const id = `${page} ${++feed.acts}`;
    feed.answers.set(id, resolve);
    model.send({ act: name, id, arguments: args });
  });
  feed.acts = 0;
  feed.send = (content, buffers = []) => model.send({ stream: content }, undefined, buffers);
  feed.heard = performance.now();
  const hear = (message, buffers) => {
    feed.heard = performance.now();
    if ("stream" in message) {
      feed.streams.forEach((listener) => listener(message.stream, buffers));
    } else if ("answer" in message) {
      feed.answers.get(message.answer)?.(message);
      feed.answers.delete(message.answer);
    } else if ("whole" in message) {
      whole(message.whole, message.number);
      tell();
    } else if ("change" in message && message.number > feed.number) {
      // A change was missed (the page was loaded in between): all of it is asked for, once.
      if (message.number !== feed.number + 1) return model.send({ ask: "whole" });
      feed.document = applyChange(feed.document, message.change);
      feed.number = message.number;
      tell();
    }
  };
  whole(model.get("document"), model.get("number"));
  model.on("msg:custom", hear);
  model.on("change:number", () => (whole(model.get("document"), model.get("number")), tell()));
  feeds.set(identity, feed);
  return feed;
}

// Build the page of a view in `el`. `source` = {words, language, feed, act(name, arguments), want(parts), replays}; one
// without `feed.send` shows documents only. `atEnd` is told what to undo when the page is no more.
function paint(el, source, draw) {
  const { words, feed } = source;
  const alert = h("div", { class: "vmc-failure", role: "alert" }), spoken = h("div", { class: "vmc-spoken", role: "status", "aria-live": "polite" });
  const answer = h("div", { class: "vmc-answer", role: "status" }), waiting = h("div", { class: "vmc-waiting" }, words.waiting), body = h("div", { class: "vmc-body" });
  const root = h("section", { class: "vmc", lang: source.language }, alert, waiting, body, answer, spoken);
  const ends = [];
  let failure = "";
  const again = () => "kind" in feed.document && drawn(feed.document, failure);
  const drawn = draw({
    body, root, words, language: source.language, again, history: feed.history, memory: feed.memory, want: source.want, replays: source.replays ?? false,
    say: (text) => setText(spoken, text),
    send: feed.send,
    listen: (listener) => (feed.streams.add(listener), ends.push(() => feed.streams.delete(listener))),
    atEnd: (undo) => ends.push(undo),
    act: (name, args = {}) => answered(source.act(name, args), answer, words),
  });
  el.replaceChildren(root);
  const update = (failed = "") => {
    failure = String(failed).split("\n").map((line) => visible(line)).join("\n");
    setText(alert, failure);
    setHidden(waiting, "kind" in feed.document);
    setHidden(body, !("kind" in feed.document));
    root.classList.toggle("vmc-ended", failure !== "");
    again();
  };
  return { root, update, end: () => ends.splice(0).forEach((undo) => undo()) };
}

// Show how an action ended. An answer may take long (a boot), or wait for the notebook's running cell: then say so.
async function answered(promise, node, words) {
  setText(node, "");
  const patience = setTimeout(() => setText(node, words.act_waits), 3000);
  const { ok, text } = await promise;
  clearTimeout(patience);
  setAttribute(node, "data-tone", ok ? "good" : "bad");
  setText(node, ok ? visible(text ?? "", 2000) : put(words.act_failed, { text: visible(text ?? "", 2000) }));
  return { ok: Boolean(ok), text };
}

// Join a view to its model.
function mount({ model, el }, draw) {
  const feed = feedOf(model);
  let painted = null, frame = 0;
  const update = () => {
    now();
    feed.seen();
  };
  const want = (parts) => {
    if (JSON.stringify(model.get("wanted")) === JSON.stringify(parts)) return;
    model.set("wanted", parts);
    model.save_changes();
  };
  const build = () => {
    painted?.end();
    painted = paint(el, { words: model.get("words"), language: model.get("language"), feed, act: feed.act, want }, draw);
    if (model.get("records")) painted.root.append(recorder(model, feed));
    now();
  };
  const watching = watch(model, el, () => ((feed.heard = performance.now()), update()));
  const soon = () => {
    if (!watching.shown()) return void feed.seen();
    if (!frame) frame = requestAnimationFrame(() => ((frame = 0), update()));
  };
  // A page outlives its kernel, and no front end tells of that alike: one that was not heard of for long is gone.
  let lost = false;
  const failure = () => (lost ? model.get("words").kernel_gone : model.get("failure"));
  const now = () => painted.update(failure());
  const listen = () => {
    const silent = model.get("records") && watching.shown() && performance.now() - feed.heard > SILENCE_MS;
    if (silent !== lost) (lost = silent), now();
  };
  feed.listeners.add(soon);
  model.on("change:failure", now);
  model.on("change:words", build);
  const listening = setInterval(listen, SILENCE_MS / 4);
  build();
  feed.seen();
  return () => {
    cancelAnimationFrame(frame);
    feed.listeners.delete(soon);
    model.off("change:failure", now);
    model.off("change:words", build);
    clearInterval(listening);
    watching.end();
    painted.end();
  };
}

// The button that records what the view shows; Python keeps the recording and says where it was saved.
function recorder(model, feed) {
  const words = model.get("words"), button = h("button", { type: "button", class: "vmc-button vmc-toggle" }), note = h("span", { class: "vmc-soft", role: "status" });
  const show = () => {
    setText(button, `${model.get("recording") ? "■" : "●"} ${model.get("recording") ? words.record_stop : words.record}`);
    setAttribute(button, "aria-pressed", String(Boolean(model.get("recording"))));
  };
  button.addEventListener("click", () => answered(feed.act(model.get("recording") ? "save" : "record", {}), note, words));
  model.on("change:recording", show);
  show();
  return h("footer", { class: "vmc-footer" }, button, " ", note);
}

// A page that was loaded again restores its models with the `watched` of the page before it, though nothing is drawn yet.
// What is kept of a model goes with it.
const initialize = ({ model }) => {
  const identity = model.get("identity");
  feedOf(model);
  tellWatched(model);
  return () => (feeds.delete(identity), shownViews.delete(identity));
};
const view = (draw) => ({ initialize, render: (context) => mount(context, draw) });
