// Which views of a model can be seen right now. Another page that shows the same model may set `watched` to false
// when it is hidden; whoever still shows it says true again.
const shownViews = new Map();

function tellWatched(model) {
  const watched = (shownViews.get(model.get("identity"))?.size ?? 0) > 0;
  if (model.get("watched") === watched) return;
  model.set("watched", watched);
  model.save_changes();
}

function watch(model, el, onShown) {
  if (!shownViews.has(model.get("identity"))) shownViews.set(model.get("identity"), new Set());
  const views = shownViews.get(model.get("identity")), self = {};
  let onScreen = false, leaving = false;
  const tell = () => {
    const shown = onScreen && !leaving && window.document.visibilityState === "visible";
    const before = views.has(self);
    shown ? views.add(self) : views.delete(self);
    tellWatched(model);
    if (shown && !before) onShown();
  };
  const observer = new IntersectionObserver((entries) => {
    onScreen = entries[entries.length - 1].isIntersecting;
    tell();
  });
  const leave = () => ((leaving = true), tell());
  const back = () => ((leaving = false), tell());
  // Later: what is set back while a change is being told is no change to a model of ipywidgets, and is not sent.
  const other = () => setTimeout(() => views.size > 0 && tellWatched(model));
  observer.observe(el);
  window.document.addEventListener("visibilitychange", tell);
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", back);
  model.on("change:watched", other);
  return {
    shown: () => views.has(self),
    end: () => {
      observer.disconnect();
      window.document.removeEventListener("visibilitychange", tell);
      window.removeEventListener("pagehide", leave);
      window.removeEventListener("pageshow", back);
      model.off("change:watched", other);
      leave();
    },
  };
}
