// One answer as it comes: server-sent events in OpenAI's form, and what they say so far.
import { csrfToken, refusal } from "./csrf.js";

export class Answer {
  constructor() {
    this.id = null;
    this.content = "";
    this.finish = "";
    this.fault = "";
    this.began = performance.now();
    this.first = null;
    this.last = null;
    this.pieces = 0;
    this.tokens = null;
  }

  // As the server tells it of an answer that it has kept.
  get figures() {
    if (this.first === null) return {};
    return { tokens: this.tokens ?? this.pieces, first_token_seconds: (this.first - this.began) / 1000, seconds: (this.last - this.first) / 1000 };
  }

  take(data) {
    if (data === "[DONE]") this.finish ||= "stop";
    if (data === "[DONE]" || !data) return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message || "The engine broke off.");
    const choice = event.choices?.[0];
    this.tokens = event.usage?.completion_tokens ?? this.tokens;
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    if (!choice?.delta?.content) return;
    this.first ??= performance.now();
    this.last = performance.now();
    this.pieces += 1;
    this.content += choice.delta.content;
  }
}

// Asks for an answer and calls `changed` whenever more of it is here. Never raises: `fault` says what went wrong.
export async function streamed(url, body, signal, changed) {
  const answer = new Answer();
  try {
    const came = await fetch(url, {
      method: "POST", credentials: "same-origin", signal, body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken(), Accept: "text/event-stream" },
    });
    if (!came.ok) throw await refusal(came);
    answer.id = Number(came.headers.get("X-Turn"));
    await read(came.body, answer, changed);
  } catch (error) {
    if (error.name === "AbortError") answer.finish = "stopped";
    else {
      answer.finish = "failed";
      answer.fault = error instanceof TypeError ? "The server can't be reached." : error.message;
    }
  }
  return answer;
}

async function read(stream, answer, changed) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) answer.take(line.slice(5).trim());
    changed(answer);
  }
}
