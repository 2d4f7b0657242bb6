// How an answer is asked for: the system prompt, the profile and the sampling. An empty field leaves it to the model.

const part = (id) => document.getElementById(id);
const fields = () => [...document.querySelectorAll("[data-parameter]")];

// {system, parameters} as a chat call takes them; null, with the faults marked, when a figure can't be.
export function read() {
  const parameters = {};
  let faulty = null;
  for (const field of fields()) {
    const typed = field.value.trim();
    const isGood = !typed || fits(field, typed);
    mark(field, !isGood);
    if (!isGood) faulty ??= field;
    else if (typed) parameters[field.dataset.parameter] = Number(typed);
  }
  if (faulty) {
    part("chat-options").open = true;
    faulty.focus();
    return null;
  }
  const stops = part("chat-stops").value.split("\n").filter((line) => line);
  if (stops.length) parameters.stop = stops;
  if (!part("chat-profile").checked) parameters.apply_profile = false;
  return { system: part("chat-system").value.trim(), parameters };
}

function mark(field, isFaulty) {
  if (isFaulty) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
  field.classList.toggle("is-invalid", isFaulty);
}

function fits(field, typed) {
  const value = Number(typed), { low, high } = field.dataset;
  if (!Number.isFinite(value) || ("whole" in field.dataset && !Number.isInteger(value))) return false;
  return value >= Number(low) && (high === undefined || value <= Number(high));
}

// What is typed, as a conversation keeps it; `fill` puts it back.
export function typed() {
  const kept = { system: part("chat-system").value, profile: part("chat-profile").checked, stops: part("chat-stops").value };
  for (const field of fields()) kept[field.dataset.parameter] = field.value.trim();
  return kept;
}

export function fill(kept) {
  if (typeof kept.system === "string") part("chat-system").value = kept.system;
  if (typeof kept.profile === "boolean") part("chat-profile").checked = kept.profile;
  if (typeof kept.stops === "string") part("chat-stops").value = kept.stops;
  for (const field of fields()) if (typeof kept[field.dataset.parameter] === "string") field.value = kept[field.dataset.parameter];
}

document.addEventListener("input", ({ target }) => {
  if (target.dataset?.parameter) mark(target, false);
});
