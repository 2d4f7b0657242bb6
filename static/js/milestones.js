// Checkpoints of a run, added in place as they are announced.
import { count, figure, filesize } from "./format.js";

function cell(row, name) {
  return row.querySelector(`[data-cell="${name}"]`);
}

// Takes a checkpoint as the API tells it, or {step, gone: true}.
export function showCheckpoint(checkpoint) {
  const body = document.getElementById("checkpoint-rows");
  if (!body) return;
  let row = body.querySelector(`tr[data-step="${Number(checkpoint.step)}"]`);
  if (checkpoint.gone) return row?.remove();
  if (!row) {
    row = document.getElementById("checkpoint-row").content.firstElementChild.cloneNode(true);
    row.dataset.step = checkpoint.step;
    const button = row.querySelector("[data-open]");
    button.dataset.step = checkpoint.step;
    button.dataset.action = button.dataset.action.replace("/checkpoints/0/", `/checkpoints/${checkpoint.step}/`);
    button.dataset.name = button.dataset.name.replace(/-0$/, `-${checkpoint.step}`);
    body.prepend(row);
  }
  cell(row, "step").textContent = count(checkpoint.step);
  cell(row, "loss").textContent = figure(checkpoint.loss);
  cell(row, "eval_loss").textContent = figure(checkpoint.eval_loss);
  cell(row, "bytes").textContent = filesize(checkpoint.bytes);
  const time = row.querySelector("time");
  time.dateTime = checkpoint.created_at;
  time.title = new Date(checkpoint.created_at).toLocaleString();
  time.textContent = "just now";
  for (const other of body.rows) if (checkpoint.is_best || other === row) cell(other, "best").hidden = !(checkpoint.is_best && other === row);
  body.closest(".table-box").hidden = false;
  body.closest(".table-box").nextElementSibling.hidden = true;
}
