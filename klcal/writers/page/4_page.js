// The page: what is in the data comes to its place, and the controls do their work.

const byId = (id) => document.getElementById(id);
const report = JSON.parse(byId("data").textContent);

function start() {
  const { summary } = report;
  if (summary.sqnr_bins.length)
    byId("overview").append(overviewFigure(summary.sqnr_bins, summary.sqnr_step, summary.sqnr_first));
  notices();
  const rows = new Rows(report, byId("rows"), byId("count"), [byId("more"), byId("all")]);
  controls(rows);
  tree(rows);
}

function notices() {
  const said = [...report.errors.map((error) => `${error.source}: ${error.reason}`), ...report.warnings];
  if (!said.length) return;
  byId("notices").hidden = false;
  byId("notices")
    .querySelector("ul")
    .append(...said.map((each) => element("li", null, each)));
}

function controls(rows) {
  const statuses = [...new Set(report.rows.flatMap((row) => [row.status, row.change && row.change.status]))]
    .filter(Boolean)
    .sort();
  byId("status").append(...statuses.map((status) => element("option", { value: status }, status)));
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("query").addEventListener("input", (event) => rows.set({ query: event.target.value }));
  byId("status").addEventListener("change", (event) => rows.set({ status: event.target.value }));
  byId("below").addEventListener("input", (event) =>
    rows.set({ below: event.target.value === "" ? null : Number(event.target.value) }),
  );
  byId("clear").addEventListener("click", () => narrow(rows, null));
  byId("more").addEventListener("click", () => rows.more(false));
  byId("all").addEventListener("click", () => rows.more(true));
  byId("download").addEventListener("click", download);
  byId("theme").addEventListener("click", nextTheme);
}

function download() {
  const blob = new Blob([byId("data").textContent], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "report.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const THEMES = ["", "light", "dark"];

function nextTheme() {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  byId("theme").textContent = `Colours: ${next || "as the system"}`;
}

// --- modules, by the parts of names

const PARTS = /[^./:]+[./:]*|[./:]+/g; // what names are made of: "layers.", "0.", "weight"

function tree(rows) {
  const root = branch("");
  report.rows.forEach((row) => {
    let node = root;
    for (const part of labelOf(row).match(PARTS) || []) {
      count(node, row);
      if (!node.children.has(part)) node.children.set(part, branch(node.prefix + part));
      node = node.children.get(part);
    }
    count(node, row);
  });
  if (root.children.size < 1 || report.rows.length < 2) return;
  byId("tree").hidden = false;
  byId("tree").querySelector("div").append(twigs(root, rows));
}

const branch = (prefix) => ({ prefix, children: new Map(), tensors: 0, worst: null });

function count(node, row) {
  node.tensors += 1;
  if (isKnown(row.sqnr_db) && (node.worst === null || row.sqnr_db < node.worst)) node.worst = row.sqnr_db;
}

function twigs(node, rows) {
  return element("ul", null, ...[...node.children.entries()].map(([part, child]) => twig(part, child, rows)));
}

function twig(part, node, rows) {
  let names = part;
  while (node.children.size === 1 && [...node.children.values()][0].tensors === node.tensors) {
    const [[next, child]] = node.children; // a module with one part alone is one line with it
    names += next;
    node = child;
  }
  const worst = node.worst === null ? "" : `, worst ${text(node.worst)} dB`;
  const button = element(
    "button",
    { type: "button", "aria-label": `Show ${node.prefix}`, onclick: () => narrow(rows, node.prefix) },
    "show",
  );
  const said = element("small", null, ` ${whole(node.tensors)} tensor${node.tensors > 1 ? "s" : ""}${worst} `);
  if (!node.children.size) return element("li", { class: "leaf" }, names, said, button);
  const details = element("details", null, element("summary", null, names, said));
  details.addEventListener("toggle", () => details.querySelector("ul") || details.append(twigs(node, rows)), {
    once: true,
  });
  return element("li", null, details, button);
}

function narrow(rows, prefix) {
  byId("clear").hidden = prefix === null;
  byId("clear").textContent = prefix === null ? "" : `Only ${prefix} ✕`;
  rows.set({ prefix });
  byId("tensors").focus();
}

start();
