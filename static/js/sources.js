// Shows the fields of the chosen source of a model.

const form = document.querySelector("[data-sources]");
const choice = form.querySelector("[name=source]");

function show() {
  for (const part of form.querySelectorAll("[data-source]")) part.hidden = part.dataset.source !== choice.value;
}

choice.addEventListener("change", show);
show();
