// A thought set from a file: chosen, or dropped anywhere on the page.

import { $ } from "./dom.js";
import { NoSet, parsed, toSession } from "./thoughtset.js";

let actions = { open() {}, refuse() {} };

async function take(file) {
  if (!file) return;
  try {
    actions.open(toSession(parsed(await file.text())));
  } catch (error) {
    if (!(error instanceof NoSet)) throw error;
    actions.refuse(error.message);
  }
}

const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** actions: open(session), refuse(text). */
export function start(given) {
  actions = given;
  for (const id of ["import", "import-first"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    take($("file").files[0]);
    $("file").value = ""; // the same file may be chosen again
  });
  let over = 0; // elements within each other that the file is over
  const mark = (by) => {
    over = Math.max(0, over + by);
    $("drop").hidden = over === 0;
  };
  document.addEventListener("dragenter", (event) => files(event) && mark(1));
  document.addEventListener("dragleave", (event) => files(event) && mark(-1));
  document.addEventListener("dragover", (event) => files(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault(); // else the browser leaves the page and opens the file
    mark(-over);
    take(event.dataTransfer.files[0]);
  });
}
