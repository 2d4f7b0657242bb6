// Ctrl-K: go anywhere by typing.

const dialog = document.getElementById("palette");
const input = document.getElementById("palette-text");
const lines = () => [...dialog.querySelectorAll("li")].filter((line) => !line.hidden);
let chosen = 0;

function choose(index) {
  const shown = lines();
  chosen = Math.max(0, Math.min(index, shown.length - 1));
  for (const link of dialog.querySelectorAll("li a")) link.classList.remove("is-chosen");
  shown[chosen]?.firstElementChild.classList.add("is-chosen");
  shown[chosen]?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    input.value = "";
    filter();
    dialog.showModal();
    input.focus();
  }
});

function filter() {
  const words = input.value.toLowerCase().split(/\s+/);
  for (const line of dialog.querySelectorAll("li")) {
    const text = line.textContent.toLowerCase();
    line.hidden = !words.every((word) => text.includes(word));
  }
  choose(0);
}

input?.addEventListener("input", filter);
input?.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen - 1);
  else if (event.key === "Enter") lines()[chosen]?.firstElementChild.click();
  else return;
  event.preventDefault();
});
