// The rows of a sweep's form: htmx adds them, this takes them out.
document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-remove]");
  if (button) document.getElementById(button.dataset.remove)?.remove();
});
