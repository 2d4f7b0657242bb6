// One part of an upload, sent until it arrives: where the connection breaks it is tried again, and `onBreak` hears of it.
import { send } from "./csrf.js";

const TRIES = 6, FIRST_PAUSE_MS = 500;

export async function sendPart(url, blob, { signal, onBreak }) {
  for (let tried = 1; ; tried += 1) {
    try {
      await send(url, { method: "PUT", body: blob, signal, headers: { "Content-Type": "application/octet-stream" } });
      return;
    } catch (error) {
      if (error.name === "AbortError" || (error.status && error.status < 500) || tried >= TRIES) throw error;
      onBreak();
      await new Promise((resume) => setTimeout(resume, FIRST_PAUSE_MS * 2 ** tried));
    }
  }
}
