// The token that every write carries.

export function csrfToken() {
  return JSON.parse(document.body.getAttribute("hx-headers") || "{}")["X-CSRFToken"] || "";
}

// fetch with the token; raises an Error whose message is the sentence of the answer.
export async function send(url, options = {}) {
  const headers = { Accept: "application/json", ...(options.headers || {}) };
  if (options.method && options.method !== "GET") headers["X-CSRFToken"] = csrfToken();
  const answer = await fetch(url, { credentials: "same-origin", ...options, headers });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function refusal(answer) {
  let sentence = `The server answered ${answer.status}.`;
  try {
    const body = await answer.json();
    if (typeof body.detail === "string") sentence = body.detail;
    else if (body.error?.message) sentence = body.error.message;
  } catch { /* no JSON: the number must do */ }
  if (answer.status === 401) sentence = "You are logged out. Log in again in another tab, then go on here.";
  const error = new Error(sentence);
  error.status = answer.status;
  return error;
}
