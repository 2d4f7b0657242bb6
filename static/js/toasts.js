// A sentence in the corner for what has no place of its own on the page.

// `link` {text, url}: where more is said.
export function toast(text, tone = "error", link = null) {
  const box = document.createElement("div");
  box.className = `message ${tone}`;
  const line = document.createElement("p");
  line.textContent = link ? `${text} ` : text;
  if (link) {
    const more = document.createElement("a");
    more.href = link.url;
    more.textContent = link.text;
    line.append(more);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.dataset.dismiss = "";
  close.setAttribute("aria-label", "Close this message");
  close.textContent = "✕";
  box.append(line, close);
  document.getElementById("toasts").append(box);
  if (tone !== "error") setTimeout(() => box.remove(), 6000);
}

document.addEventListener("htmx:responseError", ({ detail }) => {
  const kind = detail.xhr.getResponseHeader("Content-Type") || "";
  const plain = kind.startsWith("text/plain") && detail.xhr.responseText.length < 600;
  toast(plain ? detail.xhr.responseText : `The server answered ${detail.xhr.status}. Reload the page and try again.`);
});
document.addEventListener("htmx:sendError", () => toast("The server can't be reached. Nothing was changed."));
