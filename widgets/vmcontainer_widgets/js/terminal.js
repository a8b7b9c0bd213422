// A terminal: xterm.js draws, Python (live/terminal.py) has the bytes. `Terminal` and `FitAddon` are third-party code,
// put before this file by Python.
//
//   {page, start, anew} + bytes ──▶ write ──drawn──▶ {page, drawn, rows, columns}: only so much more is sent
//   keys ──▶ {…, number} + bytes ──▶ {page, number}: they have arrived; if that takes long, the notebook is busy
//
// What a program writes is foreign: it may change what the terminal shows, and nothing else of the page.

const ROWS_AT_FIRST = 24;
const ACK_MS = 60;
const BUSY_MS = 900;
const PIECE = 16384;
const MOST_TYPED = 1 << 20;
const LEAVE = "Shift+F6";

const utf8 = new TextEncoder();
const latin1 = (text) => Uint8Array.from(text, (char) => char.charCodeAt(0) & 255);

// Colours as the page's theme has them now.
function themeOf(node) {
  const look = window.getComputedStyle(node), accent = window.getComputedStyle(node.querySelector(".vmc-terminal-accent"));
  return { foreground: look.color, background: look.backgroundColor, cursor: look.color, cursorAccent: look.backgroundColor, selectionBackground: accent.backgroundColor };
}

// Keys that have not arrived yet; few messages are under way, the rest is put together.
function outbox(send, busy) {
  let waiting = [], length = 0, number = 0, arrived = 0, patience = 0;
  const next = () => {
    if (!length || number - arrived >= 4) return;
    const all = new Uint8Array(length);
    let at = 0;
    for (const part of waiting) all.set(part, at), (at += part.length);
    waiting = [];
    length = 0;
    const piece = all.slice(0, PIECE);
    if (all.length > PIECE) waiting = [all.slice(PIECE)], (length = all.length - PIECE);
    send(piece, ++number);
    patience ||= setTimeout(() => busy(true), BUSY_MS);
    next();
  };
  return {
    put: (bytes) => {
      if (length + bytes.length > MOST_TYPED) return false;
      waiting.push(bytes);
      length += bytes.length;
      next();
      return true;
    },
    arrived: (upTo) => {
      if (upTo <= arrived) return;
      arrived = upTo;
      clearTimeout(patience);
      patience = arrived < number ? setTimeout(() => busy(true), BUSY_MS) : 0;
      busy(false);
      next();
    },
    end: () => clearTimeout(patience),
  };
}

// What no program may do here: reach the clipboard, name windows, make links, ask what the window is.
function guard(term) {
  for (const number of [0, 1, 2, 8, 52]) term.parser.registerOscHandler(number, () => true);
  term.parser.registerCsiHandler({ final: "t" }, () => true);
}

function emulator(words) {
  const term = new Terminal({
    rows: ROWS_AT_FIRST, cols: 80, scrollback: 2000, minimumContrastRatio: 4.5, fontSize: 13, allowProposedApi: true,
    linkHandler: { activate: () => {} }, logLevel: "off",
  });
  const fit = new FitAddon();
  term.loadAddon(fit);
  guard(term);
  return { term, fit };
}

// The live part, joined to Python by `stage`; `set` is told {busy, cut}.
function live(stage, box, set) {
  const { words, send, listen, atEnd } = stage, page = Math.random().toString(36).slice(2);
  const { term, fit } = emulator(words);
  let received = -1, drawn = -1, old = 0, soon = 0, ended = false;
  const tell = (more = {}, buffers = []) => {
    clearTimeout(soon);
    soon = 0;
    if (!ended) send({ page, drawn, rows: term.rows, columns: term.cols, number: 0, ...more }, buffers);
  };
  const keys = outbox((bytes, number) => tell({ number }, [bytes.buffer]), (busy) => set({ busy }));
  // Answers to what an earlier program asked would be typed into this one: history is only shown.
  const type = (bytes) => (received >= 0 && drawn < old) || ended || set({ cut: !keys.put(bytes) });
  term.onData((text) => type(utf8.encode(text)));
  term.onBinary((text) => type(latin1(text)));
  term.onResize(() => tell());

  listen((message, buffers) => {
    if (message.page !== page) return;
    keys.arrived(message.number ?? 0);
    if (!("start" in message)) return;
    if (message.anew) term.reset(), (received = drawn = message.start), (old = message.old);
    if (message.start !== received) return tell({ lost: true, drawn: received });
    const data = buffers?.[0] ? new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength) : new Uint8Array();
    const end = (received += data.length);
    term.write(data, () => {
      drawn = end;
      soon ||= setTimeout(tell, ACK_MS);
    });
  });

  const refit = () => box.clientWidth > 0 && fit.fit();
  const observer = new ResizeObserver(() => requestAnimationFrame(refit));
  const themes = new MutationObserver(() => (term.options.theme = themeOf(box.parentElement)));
  const begin = () => {
    term.options.fontFamily = window.getComputedStyle(box).fontFamily;
    term.open(box);
    term.textarea.setAttribute("aria-label", words.input);
    term.options.theme = themeOf(box.parentElement);
    observer.observe(box);
    themes.observe(window.document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "class"] });
    refit();
    tell();
  };
  atEnd(() => {
    tell({ gone: true });
    ended = true;
    keys.end();
    observer.disconnect();
    themes.disconnect();
    term.dispose();
  });
  // A page that has no kernel behind it yet, or no more, shows what the document kept.
  const still = (text) => received < 0 && (term.reset(), term.write(text.replaceAll("\n", "\r\n")));
  return { term, begin, still };
}

// The keys that are ours; all others are the program's. Copying and pasting are as in JupyterLab's own terminals.
function onKeys(term, leave) {
  const mac = window.navigator.platform.startsWith("Mac");
  term.attachCustomKeyEventHandler((event) => {
    if (event.shiftKey && event.key === "F6") {
      event.preventDefault();
      if (event.type === "keydown") leave();
      return false;
    }
    if (mac || !event.ctrlKey || event.altKey) return true;
    if (event.code === "KeyV") return false; // the browser pastes
    if (event.code === "KeyC" && (event.shiftKey || term.hasSelection())) {
      if (event.type === "keydown") copy(term);
      event.preventDefault();
      return false;
    }
    return true;
  });
}

// A notebook that is not served by HTTPS or from this computer has no navigator.clipboard.
async function copy(term) {
  const text = term.getSelection();
  if (!text) return false;
  term.clearSelection();
  if (window.navigator.clipboard) {
    const done = await window.navigator.clipboard.writeText(text).then(() => true, () => false);
    if (done) return true;
  }
  const area = h("textarea", { style: "position: fixed; opacity: 0" }), before = window.document.activeElement;
  area.value = text;
  window.document.body.append(area);
  area.select();
  const done = window.document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}

function toolbar(words, term, act, box, say) {
  const button = (text, press, more = {}) => {
    const node = h("button", { type: "button", class: "vmc-button", ...more }, text);
    node.addEventListener("click", press);
    return node;
  };
  const copying = button(words.copy, async () => say((await copy(term)) ? words.copied : words.nothing_selected));
  const reader = button(words.reader, () => read(!term.options.screenReaderMode), { "aria-pressed": "false" });
  const close = button(words.hang_up, () => act("hang_up")), again = button(words.again, async () => {
    const { ok } = await act("again");
    if (ok) term.focus();
  });
  const read = (on) => {
    term.options.screenReaderMode = on;
    setAttribute(reader, "aria-pressed", String(on));
  };
  const node = h("div", { class: "vmc-buttons" }, copying, reader, close, again);
  return { node, read, reader, close, again };
}

function draw(stage) {
  const { body, root, words, act, say, send } = stage;
  const name = foreign("vmc-strong"), what = h("span", { class: "vmc-soft" }), state = h("span", { class: "vmc-pill" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }, what, " ", name);
  const head = h("div", { class: "vmc-head" }, title, state), note = h("div", { class: "vmc-soft", role: "status" });
  const error = h("div", { class: "vmc-failure" }), help = h("div", { class: "vmc-soft" });
  const box = h("div", { class: "vmc-terminal-box", "data-lm-suppress-shortcuts": "true" }), shown = h("pre", { class: "vmc-code vmc-terminal-shown" });
  const frame = h("div", { class: "vmc-terminal" }, h("span", { class: "vmc-terminal-accent", hidden: "" }), box);
  const joined = send ? live(stage, box, (now) => setText(note, now.cut ? words.too_much : now.busy ? words.busy : "")) : null;
  body.append(head, error, joined ? frame : shown, note, help);
  let bar = null, begun = false;
  if (joined) {
    bar = toolbar(words, joined.term, act, box, say);
    head.append(bar.node);
    onKeys(joined.term, () => bar.reader.focus());
    setText(help, put(words.leave, { key: LEAVE }));
  }
  return (view) => {
    setText(what, lookup(words.of_terminal, view.of) ?? visible(view.of, 20));
    setText(name, visible(view.name, 60));
    const ended = isNumber(view.status) ? put(words.ended_with, { status: String(view.status) }) : words.ended;
    setText(state, view.state === "ended" ? ended : lookup(words.terminal_states, view.state) ?? visible(view.state, 20));
    setAttribute(state, "data-tone", view.state === "running" ? "good" : "off");
    setText(error, visible(view.error ?? "", 500));
    const last = String(view.shown ?? "").split("\n").slice(-60).map((line) => visible(line, 300)).join("\n");
    setText(shown, last);
    setAttribute(root, "aria-label", `${what.shownText} ${name.shownText}`);
    if (!joined) return;
    setHidden(bar.close, view.state !== "running" || view.of === "console");
    setHidden(bar.again, view.state !== "ended" || view.of === "console");
    if (begun) return;
    begun = true;
    bar.read(view.reader === true);
    requestAnimationFrame(() => (joined.begin(), last && joined.still(last)));
  };
}
