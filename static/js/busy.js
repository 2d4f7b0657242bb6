// A button that was pressed says so until the server has answered.

const FORGOTTEN_AFTER_MS = 10000; // a form whose answer is a file leaves the page as it is

function rest(button) {
  button.removeAttribute("aria-busy");
}

document.addEventListener("submit", ({ target, submitter, defaultPrevented }) => {
  if (defaultPrevented || !submitter || target.method !== "post") return;
  submitter.setAttribute("aria-busy", "true");
  setTimeout(() => rest(submitter), FORGOTTEN_AFTER_MS);
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) for (const button of document.querySelectorAll("[type=submit][aria-busy], button[aria-busy]")) rest(button);
});
