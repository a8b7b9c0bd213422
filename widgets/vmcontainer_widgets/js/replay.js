// A recording, shown by the same drawing as the live view: nothing is asked of Python, so it also moves in a saved page.
// A recording is {view, taken_s, place, frames: [[seconds since its begin, change], ...]}; the first change sets all.

const SPEEDS = [0.5, 1, 2, 5, 10];

// The document at a moment, made from the frames up to it; going back starts again from the first.
function replayFeed(frames) {
  const feed = { document: {}, history: new History(), memory: new Map(), at: -1 };
  feed.to = (index) => {
    // A view draws lines from its history: going back means that it begins again too.
    if (index < feed.at) Object.assign(feed, { at: -1, document: {} }), feed.history.clear();
    while (feed.at < index) feed.document = applyChange(feed.document, structuredClone(frames[++feed.at][1]));
  };
  return feed;
}

function drawFace(words, recording) {
  const when = new Date(recording.taken_s * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC";
  const label = put(words.replay_face, { when, place: visible(recording.place, 200) });
  return h("div", { class: "vmc-replay-face", role: "note" }, h("span", { "aria-hidden": "true" }, "⏵ "), h("bdi", {}, label));
}

function mountReplay({ model, el }, draw) {
  const words = model.get("words"), recording = model.get("document"), frames = list(recording.frames);
  const end = frames.length ? frames[frames.length - 1][0] : 0;
  const feed = replayFeed(frames), stage = h("div");
  const play = h("button", { type: "button", class: "vmc-button" });
  const scrub = h("input", { type: "range", class: "vmc-scrub", min: 0, max: Math.max(0, frames.length - 1), value: 0, "aria-label": words.replay_scrub });
  const speed = h("select", { class: "vmc-button", "aria-label": words.replay_speed }, ...SPEEDS.map((one) => h("option", one === 1 ? { value: one, selected: "" } : { value: one }, `${one} ×`)));
  const clock = h("span", { class: "vmc-figures vmc-soft" });
  const controls = h("div", { class: "vmc-replay-controls vmc", role: "group", "aria-label": words.replay_controls }, drawFace(words, recording), play, scrub, speed, clock);
  const act = async () => ({ ok: false, text: words.replay_only });
  const painted = paint(stage, { words, language: model.get("language"), feed, act, want: () => {}, replays: true }, draw);
  let timer = 0, at_s = 0, before = 0;
  const show = (index) => {
    feed.to(index);
    at_s = frames[index]?.[0] ?? 0;
    scrub.value = index;
    setAttribute(scrub, "aria-valuetext", `${at_s.toFixed(1)} s`);
    setText(clock, `${at_s.toFixed(1)} / ${end.toFixed(1)} s`);
    painted.update("");
  };
  const step = () => {
    const now = performance.now();
    let moment = at_s + ((now - before) / 1000) * Number(speed.value), index = feed.at;
    before = now;
    while (index + 1 < frames.length && frames[index + 1][0] <= moment) index++;
    if (index !== feed.at) show(index);
    at_s = moment;
    if (feed.at >= frames.length - 1) set(false);
  };
  const set = (running) => {
    clearInterval(timer);
    timer = running ? setInterval(step, 100) : 0;
    before = performance.now();
    setText(play, running ? `❚❚ ${words.replay_pause}` : `▶ ${words.replay_play}`);
  };
  play.addEventListener("click", () => {
    if (!timer && feed.at >= frames.length - 1) show(0);
    set(!timer);
  });
  scrub.addEventListener("input", () => (set(false), show(Number(scrub.value))));
  el.replaceChildren(controls, stage);
  set(false);
  if (frames.length) show(0);
  return () => clearInterval(timer);
}

const replay = (draw) => ({ render: (context) => mountReplay(context, draw) });
