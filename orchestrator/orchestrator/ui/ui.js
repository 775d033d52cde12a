"use strict";
// Everything works without this file; it adds keys, filters that apply at once, and pages that follow a run.

const all = (what, within = document) => [...within.querySelectorAll(what)];
const typing = () => document.activeElement?.matches("input:not([type=hidden]), select, textarea");

// ---- follow a run ----
async function refresh(box) {
  const reply = await fetch(box.dataset.live, { credentials: "same-origin" });
  if (!reply.ok) throw new Error(String(reply.status));
  const text = await reply.text();
  if (text !== box.said) {
    if (box.said !== undefined || text.trim() !== box.innerHTML.trim()) replace(box, text);
    box.said = text;
  }
}

function replace(box, text) {
  const names = (details) => details.querySelector("summary")?.textContent;
  const open = new Set(all("details[open]", box).map(names));
  const shut = new Set(all("details:not([open])", box).map(names));
  const focused = box.contains(document.activeElement) ? document.activeElement.id || document.activeElement.getAttribute("href") : null;
  const aside = all(".scroll", box).map((s) => s.scrollLeft);
  box.innerHTML = text; // our own server's page, escaped there
  for (const details of all("details", box)) {
    if (open.has(names(details))) details.open = true;
    else if (shut.has(names(details))) details.open = false;
  }
  all(".scroll", box).forEach((s, i) => { s.scrollLeft = aside[i] ?? 0; });
  if (focused) all("a, [id]", box).find((e) => e.id === focused || e.getAttribute("href") === focused)?.focus({ preventScroll: true });
}

for (const box of all("[data-live]")) {
  let failed = 0;
  const again = () => {
    const soon = box.querySelector("[data-soon]") ? 1 : Number(box.dataset.every);
    setTimeout(follow, 1000 * Math.min(60, soon * 2 ** failed));
  };
  const follow = async () => {
    if (!document.hidden) {
      try {
        await refresh(box);
        failed = 0;
      } catch {
        failed = Math.min(failed + 1, 5);
      }
      box.classList.toggle("stale", failed > 1);
    }
    again();
  };
  again();
}

// ---- filters ----
for (const form of all("form[data-auto]")) {
  form.addEventListener("change", (event) => { if (event.target.matches("select")) form.requestSubmit(); });
}
for (const form of all("form.filters:not([method=post])")) {
  form.addEventListener("formdata", (event) => { // short addresses: what is empty is left out
    for (const [key, value] of [...event.formData]) if (value === "") event.formData.delete(key);
  });
}

// ---- keys ----
const dialog = document.getElementById("keys");
for (const button of all("[data-keys]")) {
  button.hidden = false;
  button.addEventListener("click", () => dialog.showModal());
}

function move(by) {
  const rows = all("[data-row]");
  if (!rows.length) return;
  const at = rows.findIndex((r) => r.contains(document.activeElement));
  const inView = rows.findIndex((r) => r.getBoundingClientRect().bottom > 80);
  const to = rows[at < 0 ? Math.max(0, inView) : Math.min(rows.length - 1, Math.max(0, at + by))];
  to.querySelector("a").focus({ preventScroll: true });
  to.scrollIntoView({ block: "nearest" });
}

const keys = {
  "/": () => { const field = document.querySelector("input[type=search]"); field?.focus(); field?.select(); },
  j: () => move(1),
  k: () => move(-1),
  n: () => document.querySelector("a[rel=next]")?.click(),
  p: () => document.querySelector("a[rel=prev]")?.click(),
  u: () => document.querySelector("a[rel=up]")?.click(),
  h: () => document.querySelector("a[rel=home]")?.click(),
  d: () => document.getElementById("parting")?.scrollIntoView({ block: "center" }),
  "?": () => (dialog.open ? dialog.close() : dialog.showModal()),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (typing()) {
    if (event.key === "Escape") document.activeElement.blur();
    return;
  }
  const act = dialog.open && event.key !== "?" ? undefined : keys[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});
