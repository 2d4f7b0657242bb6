// Dialogs: data-open shows one (and fills in what the button carries), data-close closes it, data-confirm asks first, as
// ask() does for scripts.

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) return open(opener);
  const closer = event.target.closest("[data-close]");
  if (closer) closer.closest("dialog").close();
  else if (event.target instanceof HTMLDialogElement) event.target.close();
  const dismisser = event.target.closest("[data-dismiss]");
  if (dismisser) dismisser.closest(".message").remove();
});

function open(button) {
  const dialog = document.getElementById(button.dataset.open);
  dialog.querySelector("form")?.reset(); // a box that was ticked for another thing isn't for this one
  if (button.dataset.action) dialog.querySelector("form").action = button.dataset.action;
  for (const place of dialog.querySelectorAll("[data-fill]")) place.textContent = button.dataset[place.dataset.fill];
  for (const place of dialog.querySelectorAll("[data-fill-value]")) place.value = button.dataset[place.dataset.fillValue];
  dialog.showModal();
}

// The form's own submission goes on when the question was answered with yes.
const confirmed = new WeakSet();
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset?.confirm || confirmed.has(form)) return;
  event.preventDefault();
  const submitter = event.submitter, { confirm, confirmText, confirmYes } = form.dataset;
  ask(confirm, confirmText || "", confirmYes || "Yes", "confirmBad" in form.dataset, () => {
    confirmed.add(form);
    form.requestSubmit(submitter?.isConnected ? submitter : undefined);
  });
});

export function ask(title, text, yesText, isBad, then) {
  const dialog = document.getElementById("confirm"), yes = document.getElementById("confirm-yes");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  yes.textContent = yesText;
  yes.classList.toggle("solid-bad", isBad);
  yes.classList.toggle("primary", !isBad);
  yes.onclick = () => {
    dialog.close();
    then();
  };
  dialog.showModal();
}
