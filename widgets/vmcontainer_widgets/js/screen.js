// A machine's screen: its last picture, and a place where keys and the pointer are the machine's. Python is
// live/screen.py. Keys go by their place on the keyboard (KeyboardEvent.code): what they write is the guest's business.

const LEAVE = "Shift+F6";
const MOVE_MS = 50;

// What the person does, put together for one message; a pointer that moves much is told of twenty times a second.
function hand(send, sizeOf) {
  const down = new Set();
  let waiting = [], soon = 0;
  const flush = () => {
    clearTimeout(soon);
    soon = 0;
    if (waiting.length) send({ events: waiting.splice(0, 256) });
  };
  const tell = (...event) => (waiting.push(event), flush());
  const place = (event, node) => {
    const box = node.getBoundingClientRect(), { width, height } = sizeOf();
    return [Math.floor(((event.clientX - box.left) / box.width) * width), Math.floor(((event.clientY - box.top) / box.height) * height)];
  };
  return {
    key: (code, pressed) => {
      if (!pressed && !down.delete(code)) return;
      if (pressed) down.add(code);
      tell("key", code, pressed);
    },
    text: (char) => tell("text", char),
    letGo: () => [...down].forEach((code) => (down.delete(code), tell("key", code, false))),
    move: (event, node) => {
      waiting = waiting.filter(([kind]) => kind !== "at");
      waiting.push(["at", ...place(event, node)]);
      soon ||= setTimeout(flush, MOVE_MS);
    },
    button: (event, node, pressed) => {
      waiting.push(["at", ...place(event, node)]);
      tell("button", event.button, pressed);
    },
    wheel: (event) => tell("wheel", Math.sign(event.deltaY)),
  };
}

function listenTo(node, image, hand, leave) {
  const stop = (event) => (event.preventDefault(), event.stopPropagation());
  node.addEventListener("keydown", (event) => {
    stop(event);
    if (event.shiftKey && event.key === "F6") return hand.letGo(), leave();
    // On-screen keyboards have no places, only letters.
    if (event.code) hand.key(event.code, true);
    else if (event.key.length === 1) hand.text(event.key);
  });
  node.addEventListener("keyup", (event) => (stop(event), hand.key(event.code, false)));
  node.addEventListener("blur", () => hand.letGo());
  image.addEventListener("pointerdown", (event) => {
    stop(event);
    node.focus({ preventScroll: true });
    image.setPointerCapture(event.pointerId);
    hand.button(event, image, true);
  });
  image.addEventListener("pointerup", (event) => (stop(event), hand.button(event, image, false)));
  image.addEventListener("pointermove", (event) => hand.move(event, image));
  image.addEventListener("contextmenu", stop);
  // Only who has the machine's keyboard scrolls in it; others scroll the notebook.
  image.addEventListener("wheel", (event) => node === window.document.activeElement && (stop(event), hand.wheel(event)), { passive: false });
}

// Show a PNG on a canvas. The bytes are QEMU's, of what a guest drew: nothing but a picture is made of them.
async function paintPicture(canvas, png) {
  const picture = await createImageBitmap(new Blob([png], { type: "image/png" }));
  Object.assign(canvas, { width: picture.width, height: picture.height });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

function fromBase64(text) {
  const letters = /^[A-Za-z0-9+/=]+$/.test(text) ? window.atob(text) : "";
  return Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
}

function draw({ body, root, words, act, send, listen }) {
  const name = foreign("vmc-strong"), size = h("span", { class: "vmc-soft vmc-figures" });
  const title = h("div", { class: "vmc-title", role: "heading", "aria-level": 3 }, h("span", { class: "vmc-soft" }, words.screen_of), " ", name);
  const keys = h("button", { type: "button", class: "vmc-button" }, "Ctrl+Alt+Delete");
  const head = h("div", { class: "vmc-head" }, title, size, h("div", { class: "vmc-buttons" }, ...(send ? [keys] : [])));
  const image = h("canvas", { class: "vmc-screen-picture", role: "img" });
  const help = h("div", { class: "vmc-soft", id: `vmc-screen-${Math.random().toString(36).slice(2)}` });
  const place = h("div", { class: "vmc-screen", tabindex: "0", role: "application", "data-lm-suppress-shortcuts": "true", "aria-describedby": help.id }, image);
  const letters = h("pre", { class: "vmc-code vmc-screen-letters" });
  const text = h("details", { class: "vmc-fold" }, h("summary", {}, words.letters), letters);
  let shown = { width: 1, height: 1 }, kept = "", streamed = false;
  body.append(head, place, help, text);
  if (send) {
    setText(help, put(words.leave_screen, { key: LEAVE }));
    keys.addEventListener("click", () => act("ctrl_alt_delete"));
    listenTo(place, image, hand(send, () => shown), () => keys.focus());
    listen((message, buffers) => {
      if (!isNumber(message.picture) || !buffers?.[0]) return;
      streamed = true;
      shown = { width: message.width, height: message.height };
      const done = () => send({ drawn: message.picture });
      paintPicture(image, buffers[0]).then(done, done);
    });
    send({ hello: true });
  } else place.removeAttribute("tabindex");
  return (view) => {
    setText(name, visible(view.name, 60));
    setText(size, isNumber(view.width) && isNumber(view.height) ? `${view.width} × ${view.height}` : "");
    const said = String(view.text ?? "").split("\n").slice(0, 60).map((line) => visible(line, 200)).join("\n");
    setText(letters, said);
    setHidden(text, said === "");
    setAttribute(place, "aria-label", `${words.screen_of} ${name.shownText}`);
    setAttribute(root, "aria-label", `${words.screen_of} ${name.shownText}`);
    setAttribute(image, "aria-label", said === "" ? put(words.graphics, { width: formatCount(view.width), height: formatCount(view.height) }) : words.letters_below);
    // Of a recording: Python put the picture into its document.
    if (!streamed && typeof view.picture === "string" && view.picture !== kept) {
      kept = view.picture;
      paintPicture(image, fromBase64(kept)).catch(() => {});
    }
  };
}
