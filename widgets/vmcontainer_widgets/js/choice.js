// A question: radio buttons and a button that keeps the choice. The arrow keys move, Enter keeps; nothing is kept before.

const EVENTS = ["change:chosen", "change:told"];

function make(tag, attributes, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

// What stands between backticks is code, as in the lesson's text.
function prose(text) {
  return text.split(/\x60([^\x60]+)\x60/).map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function render({ model, el }) {
  const group = `vmc-choice-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  const radios = model.get("choices").map((_, index) => make("input", { type: "radio", name: group, value: index + 1, required: "" }));
  const labels = radios.map((radio, index) => make("label", { class: "vmc-choice" }, radio, make("span", {}, `${index + 1}. `, ...prose(model.get("choices")[index]))));
  const told = make("div", { class: "vmc-told", role: "status" });
  const keep = make("button", { type: "submit", class: "vmc-button" }, model.get("button"));
  const fields = make("fieldset", { class: "vmc-choices" }, make("legend", { class: "vmc-strong" }, ...prose(model.get("asks"))), ...labels);
  const form = make("form", { class: "vmc vmc-question", lang: model.get("language") }, fields, keep, told);
  const show = () => {
    for (const radio of radios) radio.checked = Number(radio.value) === model.get("chosen");
    told.textContent = model.get("told");
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = radios.find((radio) => radio.checked);
    if (chosen) model.send({ choose: Number(chosen.value) });
  });
  // JupyterLab's own keys (Enter edits the cell, arrows leave it) are not for who chooses. Escape goes back to the cell,
  // and from the button all keys but its own are the notebook's: Tab alone leads past all cells, out of the notebook.
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") form.closest("[tabindex]")?.focus();
    else if (event.target !== keep || ["Enter", " "].includes(event.key)) event.stopPropagation();
  });
  // After each answer, also where it changes nothing: the buttons show what is kept.
  for (const event of EVENTS) model.on(event, show);
  el.append(form);
  show();
  return () => EVENTS.forEach((event) => model.off(event, show));
}

export default { render };
